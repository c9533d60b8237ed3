//! `/docs`: Swagger UI out of the binary. Whatever it loads comes from here.

use super::{Content, Done, Reply, Request};

#[cfg(feature = "ui")]
const PAGE: &[u8] = include_bytes!("page.html");

/// Only what this host serves may be loaded or asked.
#[cfg(feature = "ui")]
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; font-src data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// A file that the page loads.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// Whether `bytes` are gzip.
    packed: bool,
}

#[cfg(feature = "ui")]
const FILES: [File; 3] = [
    File {
        name: "swagger-ui-bundle.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js.gz")),
        packed: true,
    },
    File {
        name: "swagger-ui.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css.gz")),
        packed: true,
    },
    File {
        name: "start.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("start.js"),
        packed: false,
    },
];
#[cfg(not(feature = "ui"))]
const FILES: [File; 0] = [];

/// The page; 404 in a binary built without it.
#[cfg(feature = "ui")]
pub(super) fn page() -> Done {
    let content = Content::File {
        kind: "text/html; charset=utf-8",
        bytes: PAGE,
    };
    Ok(Reply::with(200, content).field("Content-Security-Policy", POLICY))
}

/// The page; 404 in a binary built without it.
#[cfg(not(feature = "ui"))]
pub(super) fn page() -> Done {
    Err(Reply::error(404, "Not found"))
}

/// 404 unless the path names a file of the page.
pub(super) fn exists(request: &Request) -> Result<(), Reply> {
    find(request).map(drop)
}

/// The file that the path names.
pub(super) fn file(request: &Request) -> Done {
    let File {
        kind,
        bytes,
        packed,
        ..
    } = find(request)?;
    let reply = Reply::with(200, Content::File { kind, bytes }).field("Cache-Control", "no-cache");
    Ok(if packed {
        reply.field("Content-Encoding", "gzip")
    } else {
        reply
    })
}

fn find(request: &Request) -> Result<File, Reply> {
    let name = request.target.rest("/docs/");
    let found = FILES.into_iter().find(|file| file.name == name);
    found.ok_or_else(|| Reply::error(404, "Not found"))
}

#[cfg(all(test, feature = "ui"))]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_files_that_are_there_and_no_others() {
        let page = std::str::from_utf8(PAGE).unwrap();
        assert!(!page.contains("//"), "nothing from elsewhere");
        for File {
            name,
            bytes,
            packed,
            ..
        } in FILES
        {
            assert!(page.contains(&format!("\"docs/{name}\"")), "{name}");
            assert_eq!(bytes.starts_with(b"\x1f\x8b\x08"), packed, "{name}");
        }
        assert_eq!(page.matches("\"docs/").count(), FILES.len());
    }
}
