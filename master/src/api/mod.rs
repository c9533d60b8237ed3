//! From our [`Request`] to our [`Reply`]: routes, the key, methods, bodies, in this order.
//!
//! Nothing here knows how a request came in; CORS fields are on every answer, so whoever writes
//! answers adds them.

mod docs;
mod guard;
mod instances;
mod metrics;
mod reply;
mod request;
mod route;
mod service;
mod streams;
mod target;

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::guard::Guard;
use self::streams::{Quota, STREAMS};
use crate::control::Control;
use crate::error::Error;

pub(crate) use self::reply::{Content, EVENTS, Reply};
pub(crate) use self::request::{
    BODY, Body, BodyError, BodyResult, Caller, Feeder, Fields, Method, Request,
};
pub(crate) use self::route::Route;
pub(crate) use self::streams::Stream;
pub(crate) use self::target::Target;

/// Answers requests about one master.
#[derive(Debug)]
pub(crate) struct Api {
    control: Control,
    guard: Guard,
    streams: Quota,
    /// `openapi.json`.
    description: Vec<u8>,
}

impl Api {
    /// For a master whose paths begin with `prefix`.
    pub(crate) fn new(control: Control, prefix: &str) -> Self {
        Self {
            control,
            guard: Guard::new(),
            streams: Quota::new(STREAMS),
            description: crate::openapi::document(prefix),
        }
    }

    /// Answers a request about `route`.
    pub(crate) async fn answer(&self, route: Route, request: Request) -> Reply {
        if request.method == Method::Options {
            return Reply::empty(200);
        }
        if route.is_protected() {
            if let Err(refusal) = self.admit(route, &request).await {
                return refusal;
            }
            request.caller.trust();
        }
        match self.look_up(route, &request) {
            Ok(()) => self.dispatch(route, request).await,
            Err(reply) => reply,
        }
    }

    /// Whether the request brings the key in force. To be asked again whenever the caller could make
    /// us wait: who changes the key wants the old one refused at once.
    async fn admit(&self, route: Route, request: &Request) -> Result<(), Reply> {
        let given = key(route, request);
        if given.is_some_and(|given| self.control.is_key(given)) {
            return Ok(());
        }
        Err(self.guard.refuse(given, request.caller.address()).await)
    }

    /// Whether there is what the path names, and then whether the method fits.
    fn look_up(&self, route: Route, request: &Request) -> Result<(), Reply> {
        if route == Route::Unknown {
            return Err(Reply::error(404, "Not found"));
        }
        if route == Route::Instance {
            self.control.get(instances::id(request))?;
        }
        if route == Route::DocsFile {
            docs::exists(request)?;
        }
        if route.allows(request.method) {
            return Ok(());
        }
        Err(Reply::error(405, "Method not allowed").field("Allow", route.allow()))
    }

    async fn dispatch(&self, route: Route, request: Request) -> Reply {
        let done = match (route, request.method) {
            (Route::Instances, Method::Post) => self.create(request).await,
            (Route::Instances, _) => Ok(self.list()),
            (Route::Instance, Method::Patch) => self.patch(request).await,
            (Route::Instance, Method::Put) => self.replace(request).await,
            (Route::Instance, Method::Delete) => self.delete(request).await,
            (Route::Instance, _) => self.get(&request),
            (Route::Info, Method::Post) => self.rename(request).await,
            (Route::Info, _) => Ok(Reply::json(200, &self.control.info())),
            (Route::Tcping, _) => self.tcping(&request).await,
            (Route::Events, _) => self.events(&request).await,
            (Route::Metrics, _) => Ok(self.metrics()),
            (Route::OpenApi, _) => Ok(self.describe()),
            (Route::Docs, _) => docs::page(),
            (Route::DocsFile, _) => docs::file(&request),
            (Route::Unknown, _) => Err(Reply::error(404, "Not found")),
        };
        done.unwrap_or_else(|problem| problem)
    }

    /// The body as JSON: an object, whose members `objects` (paths) are objects too if given. Derived
    /// deserializers would also take arrays for them.
    async fn json<T: DeserializeOwned>(
        &self,
        route: Route,
        mut request: Request,
        objects: &[&str],
    ) -> Result<T, Reply> {
        let body = request.body.read().await?;
        self.admit(route, &request).await?;
        let invalid = |_| Reply::from(Error::Body);
        let value: Value = serde_json::from_slice(&body).map_err(invalid)?;
        let is_object = |path: &&str| match value.pointer(path) {
            Some(member) => member.is_object() || member.is_null(),
            None => true,
        };
        if !value.is_object() || !objects.iter().all(is_object) {
            return Err(Error::Body.into());
        }
        serde_json::from_value(value).map_err(invalid)
    }

    fn describe(&self) -> Reply {
        let text = self.description.clone();
        let kind = "application/json";
        Reply::with(200, Content::Text { kind, text })
    }
}

/// What an operation comes to.
type Done = Result<Reply, Reply>;

/// The key that a request brings: in `X-API-Key`, for the scrapers of metrics also as a bearer.
fn key(route: Route, request: &Request) -> Option<&[u8]> {
    let fields = &request.fields;
    let bearer = || {
        let (scheme, key) = fields.authorization.as_deref()?.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    let given = fields.api_key.as_deref();
    given.or_else(|| (route == Route::Metrics).then(bearer).flatten())
}
