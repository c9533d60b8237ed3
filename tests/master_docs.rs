//! The documents that the master serves say what it does.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::api::{Answer, Api};
use crate::support::master::{Master, SERVER, Setup};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document(api: &Api) -> Value {
    let asked = format!("GET {}/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", api.base);
    api.raw(asked).expect(200).json()
}

#[test]
fn the_document_is_openapi_3_1_1_and_complete() {
    let master = Master::start();
    let document = document(&master.api);
    assert_eq!(document["openapi"], "3.1.1");
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let paths: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    for path in [
        "/instances",
        "/instances/{id}",
        "/events",
        "/info",
        "/tcping",
        "/openapi.json",
        "/docs",
        "/metrics",
    ] {
        assert!(paths.contains(path), "{path}: {paths:?}");
    }
    let schemes = document["components"]["securitySchemes"]
        .as_object()
        .unwrap();
    let key = schemes.values().next().expect("a security scheme");
    assert_eq!(
        (&key["type"], &key["in"], &key["name"]),
        (&"apiKey".into(), &"header".into(), &"X-API-Key".into())
    );
    let instance = &document["components"]["schemas"]["Instance"]["properties"];
    let sent = master.api.create(SERVER);
    for member in sent.as_object().unwrap().keys() {
        assert!(
            instance[member].is_object(),
            "Instance.{member} is not documented"
        );
    }
    let info = &document["components"]["schemas"]["Info"]["properties"];
    if info.is_object() {
        for member in master.api.get("/info").as_object().unwrap().keys() {
            assert!(info[member].is_object(), "Info.{member} is not documented");
        }
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let master = Master::start();
    let document = document(&master.api);
    let text = document.to_string();
    let mut references = 0;
    for part in text.split("\"$ref\":\"").skip(1) {
        let reference = part.split('"').next().unwrap();
        let pointer = reference
            .strip_prefix('#')
            .expect("a reference into the document");
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
        references += 1;
    }
    assert!(references > 0);
}

#[test]
fn what_is_documented_runs_and_what_is_not_does_not() {
    let master = Master::start();
    let api = &master.api;
    let document = document(api);
    let page = api.call("GET", "/docs", "").expect(200).text().to_owned();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let file = links(&page).pop().expect("files of the page");
        let file = file.rsplit('/').next().unwrap_or_default();
        let real = path.replace("{id}", "********").replace("{file}", file);
        assert!(!real.contains('{'), "{path}");
        for method in METHODS {
            if path == "/events" && method == "get" {
                continue;
            }
            let answer = api.call(&method.to_uppercase(), &real, "");
            let documented = operations[method].is_object();
            assert_eq!(
                answer.status != 405,
                documented,
                "{method} {path}: {}",
                answer.head
            );
            assert_ne!(answer.status, 404, "{method} {path}");
            if documented {
                let status = answer.status.to_string();
                let known = &operations[method]["responses"];
                assert!(
                    known[&status].is_object() || known["default"].is_object(),
                    "{method} {path}: {status} is not documented"
                );
            }
        }
    }
}

#[test]
fn its_server_is_where_it_was_asked() {
    let master = Setup::default().prefix("/some/where").start();
    let document = document(&master.api);
    let server = document["servers"][0]["url"].as_str().expect("a server");
    let asked = format!(
        "GET {}/docs HTTP/1.1\r\nHost: x\r\n\r\n",
        server.trim_end_matches('/')
    );
    master.api.raw(asked).expect(200);
}

fn fetch(api: &Api, path: &str) -> Answer {
    api.raw(format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
    ))
}

/// The values of `src` and `href` attributes.
fn links(html: &str) -> Vec<String> {
    let mut links = Vec::new();
    for name in ["src=", "href="] {
        for part in html.split(name).skip(1) {
            let quote = part.chars().next().unwrap_or_default();
            if quote == '"' || quote == '\'' {
                links.extend(part[1..].split(quote).next().map(str::to_owned));
            }
        }
    }
    links
}

#[test]
fn the_documentation_page_needs_no_other_host() {
    let master = Master::start();
    for base in ["/api/v1", "/api"] {
        let mut api = master.api.clone();
        base.clone_into(&mut api.base);
        // As it is, for reading.
        let page = api
            .raw(format!("GET {base}/docs HTTP/1.1\r\nHost: x\r\n\r\n"))
            .expect(200);
        assert!(
            page.header("Content-Type")
                .unwrap()
                .starts_with("text/html"),
            "{}",
            page.head
        );
        let html = page.text();
        assert!(html.to_ascii_lowercase().contains("<html"), "{html}");
        for elsewhere in ["http://", "https://", "\"//", "'//", "(//", "cdn"] {
            assert!(!html.contains(elsewhere), "{elsewhere} in {html}");
        }
        let links = links(html);
        assert!(links.iter().any(|link| link.contains(".js")), "{links:?}");
        assert!(links.iter().any(|link| link.contains(".css")), "{links:?}");
        for link in links
            .iter()
            .filter(|link| !link.starts_with("data:") && !link.starts_with('#'))
        {
            let path = match link.strip_prefix('/') {
                Some(_) => link.clone(),
                None => format!("{base}/{}", link.trim_start_matches("./")),
            };
            let asset = fetch(&api, &path).expect(200);
            assert!(!asset.body.is_empty(), "{path}");
            asset.expect_manners(&path);
        }
    }
}

#[test]
fn an_asset_comes_readable_to_who_cannot_unpack_it() {
    let master = Master::start();
    let page = master
        .api
        .raw("GET /api/v1/docs HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect(200);
    assert_eq!(page.header("Content-Encoding"), None, "{}", page.head);
    assert!(page.text().contains("<"));
}

#[test]
fn metrics_are_in_the_text_format() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    let answer = master.api.call("GET", "/metrics", "").expect(200);
    let text = answer.text();
    assert!(text.ends_with('\n'));
    let mut samples = 0;
    for line in text.lines() {
        if line.is_empty() || line.starts_with("# HELP ") || line.starts_with("# TYPE ") {
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (name, value) = line.rsplit_once(' ').expect(line);
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        let known = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
        assert!(!name.is_empty() && name.chars().all(known), "{line}");
        samples += 1;
    }
    assert!(samples > 5, "{text}");
    assert!(text.contains(&id), "no metric of an instance: {text}");
    assert!(
        !text.contains(&master.api.key),
        "the API key is in the metrics"
    );
    assert!(
        !text.contains("key@"),
        "the key of a tunnel is in the metrics"
    );
}
