//! `/instances` and `/instances/{id}` (`rest.md` §3).

use super::{Api, Done, Reply, Request, Route};

/// The id that the path names; empty if there is none.
pub(super) fn id(request: &Request) -> &str {
    request.target.rest("/instances/")
}

impl Api {
    pub(super) fn list(&self) -> Reply {
        Reply::json(200, &self.control.list())
    }

    pub(super) fn get(&self, request: &Request) -> Done {
        Ok(Reply::json(200, &self.control.get(id(request))?))
    }

    pub(super) async fn create(&self, request: Request) -> Done {
        let new = self.json(Route::Instances, request, &[]).await?;
        Ok(Reply::json(201, &self.control.create(new).await?))
    }

    pub(super) async fn patch(&self, request: Request) -> Done {
        let id = id(&request).to_owned();
        let objects = ["/meta", "/meta/peer", "/meta/tags"];
        let patch = self.json(Route::Instance, request, &objects).await?;
        Ok(Reply::json(200, &self.control.patch(&id, patch).await?))
    }

    pub(super) async fn replace(&self, request: Request) -> Done {
        let id = id(&request).to_owned();
        if id == crate::object::KEY_INSTANCE {
            return Err(crate::error::Error::KeyInstance.into());
        }
        let new = self.json(Route::Instance, request, &[]).await?;
        Ok(Reply::json(200, &self.control.replace(&id, new).await?))
    }

    pub(super) async fn delete(&self, request: Request) -> Done {
        self.control.delete(id(&request)).await?;
        Ok(Reply::empty(204))
    }
}
