//! The wall around tide: the one file that names it.
//!
//! tide routes, and nothing else: it is handed the path of a request, and the request itself
//! travels through it as an extension, as does the reply. It never listens and its stack starts
//! no thread; none of it is maintained any more, so all that reads bytes from the network is ours.

use std::sync::{Arc, Mutex, PoisonError};

use tide::http::{self, Method, Url};

use crate::api::{Api, Reply, Request, Route};

/// A request or a reply on its way through tide, which demands that extensions are `Sync`.
struct Carried<T>(Mutex<Option<T>>);

impl<T> Carried<T> {
    const fn new(value: T) -> Self {
        Self(Mutex::new(Some(value)))
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Finds the route of requests and has them answered.
#[derive(Debug)]
pub(crate) struct Adapter {
    server: tide::Server<Arc<Api>>,
    /// tide wants whole URLs.
    base: Url,
}

impl Adapter {
    /// Routes to `api`. `None`: the base URL is none, which a test rules out.
    pub(crate) fn new(api: Arc<Api>) -> Option<Self> {
        let mut server = tide::with_state(api);
        for (pattern, route) in Route::PATTERNS {
            server
                .at(pattern)
                .all(move |request| endpoint(route, request));
        }
        let base = Url::parse("http://master/").ok()?;
        Some(Self { server, base })
    }

    /// Answers one request.
    pub(crate) async fn respond(&self, request: Request) -> Reply {
        let mut url = self.base.clone();
        url.set_path(&request.target.routable());
        // The method is checked after the route, by the API.
        let mut carrier = http::Request::new(Method::Get, url);
        carrier.ext_mut().insert(Carried::new(request));
        let reply: tide::Result<http::Response> = self.server.respond(carrier).await;
        let reply = reply.ok().and_then(|reply| {
            let carried: &Carried<Reply> = reply.ext().get()?;
            carried.take()
        });
        reply.unwrap_or_else(|| Reply::error(500, "Internal error"))
    }
}

async fn endpoint(route: Route, carrier: tide::Request<Arc<Api>>) -> tide::Result {
    let mut response = tide::Response::new(200);
    let request = carrier.ext().and_then(Carried::<Request>::take);
    if let Some(request) = request {
        let reply = carrier.state().answer(route, request).await;
        response.insert_ext(Carried::new(reply));
    }
    Ok(response)
}
