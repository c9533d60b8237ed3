//! What paths name, and who may do what with it.

use super::request::Method;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/instances`.
    Instances,
    /// `/instances/{id}`.
    Instance,
    /// `/info`.
    Info,
    /// `/tcping`.
    Tcping,
    /// `/events`.
    Events,
    /// `/metrics`.
    Metrics,
    /// `/openapi.json`.
    OpenApi,
    /// `/docs`.
    Docs,
    /// The files that `/docs` loads.
    DocsFile,
    /// Nothing.
    Unknown,
}

impl Route {
    /// The routes with their patterns: `*` stands for whatever follows.
    pub(crate) const PATTERNS: [(&'static str, Self); 11] = [
        ("/instances", Self::Instances),
        ("/instances/*", Self::Instance),
        ("/info", Self::Info),
        ("/tcping", Self::Tcping),
        ("/events", Self::Events),
        ("/metrics", Self::Metrics),
        ("/openapi.json", Self::OpenApi),
        ("/docs", Self::Docs),
        ("/docs/*", Self::DocsFile),
        ("/", Self::Unknown),
        ("/*", Self::Unknown),
    ];

    /// Whether it needs the API key.
    pub(crate) const fn is_protected(self) -> bool {
        match self {
            Self::Instances
            | Self::Instance
            | Self::Info
            | Self::Tcping
            | Self::Events
            | Self::Metrics => true,
            Self::OpenApi | Self::Docs | Self::DocsFile | Self::Unknown => false,
        }
    }

    /// The methods it knows, as in `Allow`.
    pub(crate) const fn allow(self) -> &'static str {
        match self {
            Self::Instances | Self::Info => "GET, HEAD, POST, OPTIONS",
            Self::Instance => "GET, HEAD, PATCH, PUT, DELETE, OPTIONS",
            Self::Tcping
            | Self::Events
            | Self::Metrics
            | Self::OpenApi
            | Self::Docs
            | Self::DocsFile => "GET, HEAD, OPTIONS",
            Self::Unknown => "OPTIONS",
        }
    }

    /// Whether it knows `method`.
    pub(crate) const fn allows(self, method: Method) -> bool {
        match method {
            Method::Get | Method::Head => !matches!(self, Self::Unknown),
            Method::Post => matches!(self, Self::Instances | Self::Info),
            Method::Put | Method::Patch | Method::Delete => matches!(self, Self::Instance),
            Method::Options => true,
            Method::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_names_what_is_allowed() {
        for (pattern, route) in Route::PATTERNS {
            for name in [
                "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
            ] {
                let named = route.allow().split(", ").any(|word| word == name);
                assert_eq!(route.allows(Method::of(name)), named, "{name} {pattern}");
            }
        }
    }
}
