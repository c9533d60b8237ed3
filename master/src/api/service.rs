//! `/info`, `/tcping` and `/events` (`rest.md` §3 and §4).

use serde::Deserialize;

use super::reply::EVENTS;
use super::{Api, Content, Done, Method, Reply, Request, Stream};
use crate::api::Route;
use crate::error::Error;

/// The body of `POST /info`.
#[derive(Deserialize)]
struct Rename {
    alias: Option<String>,
}

impl Api {
    pub(super) async fn rename(&self, request: Request) -> Done {
        let Rename { alias } = self.json(Route::Info, request, &[]).await?;
        let info = match alias {
            Some(alias) => self.control.rename(&alias).await?,
            None => self.control.info(),
        };
        Ok(Reply::json(200, &info))
    }

    pub(super) async fn tcping(&self, request: &Request) -> Done {
        let target = request.target.parameter("target");
        let target = target.filter(|target| !target.is_empty());
        let target = target.ok_or(Error::TargetRequired)?;
        Ok(Reply::json(200, &self.control.tcping(&target).await?))
    }

    pub(super) async fn events(&self, request: &Request) -> Done {
        let Some(permit) = self.streams.take() else {
            return Err(Reply::error(503, "Too many event streams"));
        };
        let subscription = self.control.subscribe(request.fields.last_event_id);
        // Since it was checked the key may have been changed, which ended the streams of the old one.
        self.admit(Route::Events, request).await?;
        let stream = Stream {
            subscription,
            _permit: permit,
        };
        let content = if request.method == Method::Head {
            Content::Text {
                kind: EVENTS,
                text: Vec::new(),
            }
        } else {
            Content::Events(Box::new(stream))
        };
        Ok(Reply::with(200, content))
    }
}
