//! `openapi.json`: what the API offers, as an OpenAPI 3.1.1 document. A test compares it with the
//! types and with what the server does.

#![allow(
    clippy::indexing_slicing,
    reason = "to index an object of JSON by text is to insert, and all of them are made here"
)]

mod operation;
mod operations;
mod schemas;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

const ABOUT: &str = "Creates, watches and controls tunnel instances. Every path is also served \
    without `/v1`. `HEAD` is answered as `GET` without content, `OPTIONS` with 200 for any path. \
    Members that are not known are ignored, and `null` means not given.";

/// The document for a master whose paths begin with `prefix`: compact JSON and a line feed.
pub(crate) fn document(prefix: &str) -> Vec<u8> {
    let mut text = value(prefix).to_string().into_bytes();
    text.push(b'\n');
    text
}

fn value(prefix: &str) -> Value {
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "NodePass API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": format!("{}/v1", encoded(prefix))}],
        "security": [{"ApiKeyAuth": []}],
        "tags": [
            {"name": "instances", "description": "Tunnels"},
            {"name": "master", "description": "The master itself"},
            {"name": "documentation", "description": "This description; no key is needed"},
        ],
        "paths": paths(),
        "components": {
            "schemas": schemas::all(),
            "responses": operation::responses(),
            "securitySchemes": {
                "ApiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "BearerAuth": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

/// A prefix as part of a URL, where some characters must not stand.
fn encoded(prefix: &str) -> String {
    let mut url = String::with_capacity(prefix.len());
    for byte in prefix.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

fn paths() -> Value {
    let mut paths = Map::new();
    for (path, method, operation) in operations::all() {
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(method.to_owned(), operation.value());
        }
    }
    Value::Object(paths)
}
