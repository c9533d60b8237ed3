//! One method of one path, as the document describes it.

use serde_json::{Map, Value, json};

/// Why a request is refused.
pub(super) const REFUSALS: [(u16, &str, &str); 11] = [
    (400, "BadRequest", "The request makes no sense"),
    (401, "Unauthorized", "The API key is missing or wrong"),
    (
        403,
        "Forbidden",
        "The key instance can be neither replaced nor deleted",
    ),
    (404, "NotFound", "There is no such instance or file"),
    (
        405,
        "MethodNotAllowed",
        "The path does not know this method; `Allow` says which it does",
    ),
    (408, "RequestTimeout", "The request took too long to arrive"),
    (
        409,
        "Conflict",
        "The same URL as before, or too many instances",
    ),
    (413, "ContentTooLarge", "The body is larger than 1 MiB"),
    (
        431,
        "HeadTooLarge",
        "The header fields are larger than 16 KiB",
    ),
    (
        500,
        "InternalError",
        "The state cannot be saved; nothing was changed",
    ),
    (
        503,
        "Unavailable",
        "The master is being stopped, or 64 event streams are open already",
    ),
];

/// What any request may meet.
const ANY: [u16; 6] = [400, 405, 408, 431, 500, 503];

/// One method of one path.
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    access: Access,
    /// The schema of the body.
    takes: Option<&'static str>,
    /// Status, meaning, media type and schema of success.
    gives: (u16, &'static str, Option<(&'static str, Value)>),
    /// Statuses of its own refusals, beside those that any request may meet.
    refuses: &'static [u16],
    parameters: Vec<Value>,
}

#[derive(PartialEq, Eq)]
pub(super) enum Access {
    Public,
    Key,
    /// The key, also as a bearer.
    Bearer,
}

impl Operation {
    pub(super) const fn new(
        id: &'static str,
        summary: &'static str,
        gives: (u16, &'static str, Option<(&'static str, Value)>),
    ) -> Self {
        Self {
            id,
            summary,
            tag: "instances",
            access: Access::Key,
            takes: None,
            gives,
            refuses: &[],
            parameters: Vec::new(),
        }
    }

    pub(super) const fn tag(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    pub(super) const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    pub(super) const fn takes(mut self, schema: &'static str) -> Self {
        self.takes = Some(schema);
        self
    }

    pub(super) const fn refuses(mut self, statuses: &'static [u16]) -> Self {
        self.refuses = statuses;
        self
    }

    pub(super) fn parameter(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    pub(super) fn value(self) -> Value {
        let (status, meaning, content) = self.gives;
        let mut given = json!({"description": meaning});
        if let Some((media, schema)) = content {
            given["content"] = json!({media: {"schema": schema}});
        }
        let mut responses = Map::new();
        responses.insert(status.to_string(), given);
        let key = (self.access != Access::Public).then_some(401);
        let body = self.takes.map(|_| 413);
        let refused = ANY
            .iter()
            .chain(self.refuses)
            .copied()
            .chain(key)
            .chain(body);
        for status in refused {
            let name = REFUSALS.iter().find(|(known, ..)| *known == status);
            let name = name.map_or("", |(_, name, _)| name);
            let reference = json!({"$ref": format!("#/components/responses/{name}")});
            responses.insert(status.to_string(), reference);
        }
        let mut value = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag],
            "responses": responses,
        });
        match self.access {
            Access::Public => value["security"] = json!([]),
            Access::Key => {}
            Access::Bearer => value["security"] = json!([{"ApiKeyAuth": []}, {"BearerAuth": []}]),
        }
        if !self.parameters.is_empty() {
            value["parameters"] = Value::Array(self.parameters);
        }
        if let Some(schema) = self.takes {
            let content = json!({"application/json": {"schema": reference(schema)}});
            value["requestBody"] = json!({"required": true, "content": content});
        }
        value
    }
}

/// A reference to a schema.
pub(super) fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// All refusals, to be referred to.
pub(super) fn responses() -> Value {
    let mut responses = Map::new();
    for (status, name, meaning) in REFUSALS {
        let mut response = json!({
            "description": meaning,
            "content": {"application/json": {"schema": reference("Error")}},
        });
        if status == 405 {
            let allow = json!({"description": "Methods", "schema": {"type": "string"}});
            response["headers"] = json!({"Allow": allow});
        }
        responses.insert(name.to_owned(), response);
    }
    Value::Object(responses)
}
