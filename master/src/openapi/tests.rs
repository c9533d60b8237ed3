//! The document against the types and against the server.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::operation::REFUSALS;
use super::{document, value};
use crate::api::{Method, Route};
use crate::http::testing::{Site, text, with_site};
use crate::object::KEY_INSTANCE;

fn members(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// Resolves a reference within the document.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(path) => document.pointer(path.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// Checks `found` against the words of JSON Schema that the document uses.
fn check(document: &Value, schema: &Value, found: &Value) {
    let schema = resolve(document, schema);
    if let Some(alternatives) = schema.get("oneOf").and_then(Value::as_array) {
        let schema = if found.is_null() {
            &alternatives[1]
        } else {
            &alternatives[0]
        };
        return check(document, schema, found);
    }
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    let fits = *types == kind
        || types
            .as_array()
            .is_some_and(|all| all.contains(&json!(kind)));
    assert!(fits, "{found} is no {types}");
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        assert!(values.contains(found), "{found} is none of {values:?}");
    }
    for item in found.as_array().into_iter().flatten() {
        check(document, &schema["items"], item);
    }
    let Some(properties) = schema.get("properties") else {
        return;
    };
    assert_eq!(
        members(found),
        members(properties),
        "every member is described"
    );
    let required = schema["required"].as_array().unwrap();
    assert_eq!(required.len(), properties.as_object().unwrap().len());
    for (name, member) in found.as_object().unwrap() {
        check(document, &properties[name], member);
    }
}

/// One request for every status that an operation may have.
struct Case {
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
}

const fn case(method: &'static str, path: &'static str, body: &'static str, status: u16) -> Case {
    Case {
        method,
        path,
        body,
        status,
    }
}

const CASES: [Case; 30] = [
    case("GET", "/instances", "", 200),
    case(
        "POST",
        "/instances",
        r#"{"url":"client://10.0.0.1:1/127.0.0.1:7"}"#,
        201,
    ),
    case("POST", "/instances", "{}", 400),
    case("GET", "/instances/{id}", "", 200),
    case("GET", "/instances/", "", 400),
    case("GET", "/instances/nosuch", "", 404),
    case("PATCH", "/instances/{id}", r#"{"alias":"x"}"#, 200),
    case("PATCH", "/instances/{id}", r#"{"action":"x"}"#, 400),
    case("PATCH", "/instances/nosuch", "{}", 404),
    case(
        "PUT",
        "/instances/{id}",
        r#"{"url":"client://10.0.0.1:1/127.0.0.1:7"}"#,
        409,
    ),
    case(
        "PUT",
        "/instances/{id}",
        r#"{"url":"client://10.0.0.1:1/127.0.0.1:8"}"#,
        200,
    ),
    case("PUT", "/instances/{id}", "{}", 400),
    case("PUT", "/instances/nosuch", "{}", 404),
    case("PUT", "/instances/********", "{}", 403),
    case("DELETE", "/instances/********", "", 403),
    case("DELETE", "/instances/nosuch", "", 404),
    case("DELETE", "/instances/", "", 400),
    case("DELETE", "/instances/{id}", "", 204),
    case("GET", "/info", "", 200),
    case("POST", "/info", r#"{"alias":"x"}"#, 200),
    case("POST", "/info", "", 400),
    case("GET", "/tcping?target=x", "", 200),
    case("GET", "/tcping", "", 400),
    case("GET", "/metrics", "", 200),
    case("GET", "/openapi.json", "", 200),
    case("HEAD", "/events", "", 200),
    case("HEAD", "/docs", "", 200),
    case("HEAD", "/docs/start.js", "", 200),
    case("HEAD", "/docs/swagger-ui.css", "", 200),
    case("GET", "/docs/nosuch", "", 404),
];

/// The operation of the document that a request is about.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let template = match path.rsplit_once('/') {
        Some(("/instances", _)) => "/instances/{id}",
        Some(("/docs", _)) => "/docs/{file}",
        _ => path,
    };
    let method = method.replace("HEAD", "GET").to_lowercase();
    document["paths"].get(template)?.get(method)
}

/// Asks, and compares the answer with the document.
async fn compare(site: &Site, document: &Value, case: &Case, id: &str) {
    let path = case.path.replace("{id}", id);
    let answer = site.with_key(case.method, &path, case.body).await;
    let what = format!("{} {path} {}", case.method, answer.body);
    assert_eq!(answer.status, case.status, "{what}");
    let operation = operation(document, case.method, &path).expect(&what);
    let described = operation["responses"].get(case.status.to_string());
    let described = resolve(document, described.expect(&what));
    let content = described
        .get("content")
        .map(|content| content.as_object().unwrap());
    let kind = answer.field("content-type");
    let kind = kind.map(|kind| kind.split(';').next().unwrap().to_owned());
    let Some((media, given)) = content.and_then(|content| content.iter().next()) else {
        assert_eq!(kind, None, "{what}");
        return;
    };
    let family = media.strip_suffix('*');
    let kind = kind.unwrap_or_else(|| media.clone());
    assert!(
        kind == *media || family.is_some_and(|family| kind.starts_with(family)),
        "{what}"
    );
    if kind == "application/json" && case.method != "HEAD" && path != "/openapi.json" {
        check(document, &given["schema"], &answer.json());
    }
}

#[test]
fn the_server_does_what_the_document_says() {
    if !cfg!(feature = "ui") {
        return;
    }
    with_site(async |site| {
        let document = site.ask(&text("GET", "/openapi.json", "", "")).await.json();
        let mut id = String::new();
        for case in &CASES {
            compare(&site, &document, case, &id).await;
            if case.status == 201 {
                id = site.master.control.list()[1].id.to_string();
            }
        }
        let mut seen: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for Case {
            method,
            path,
            status,
            ..
        } in CASES
        {
            let id = operation(&document, method, path).unwrap()["operationId"].to_string();
            seen.entry(id).or_default().insert(status.to_string());
        }
        // What any request may meet is tested where HTTP is.
        let common = [
            "400", "401", "405", "408", "413", "431", "500", "503", "409",
        ];
        for path in document["paths"].as_object().unwrap().values() {
            for operation in path.as_object().unwrap().values() {
                let seen = &seen[&operation["operationId"].to_string()];
                for status in operation["responses"].as_object().unwrap().keys() {
                    let common = common.contains(&status.as_str());
                    assert!(seen.contains(status) || common, "{status} {operation}");
                }
            }
        }
    });
}

#[test]
fn methods_that_are_not_described_are_not_allowed_and_keys_are_needed_where_it_says_so() {
    with_site(async |site| {
        let document = value("/api");
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path
                .replace("{id}", KEY_INSTANCE)
                .replace("{file}", "start.js");
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"] {
                let described = item.get(method.to_lowercase());
                if let Some(operation) = described {
                    let public = operation.get("security") == Some(&json!([]));
                    let answer = site.ask(&text(method, &path, "", "")).await;
                    assert_eq!(answer.status == 401, !public, "{method} {path}");
                } else {
                    let answer = site.with_key(method, &path, "").await;
                    assert_eq!(answer.status, 405, "{method} {path}");
                    let allow = answer.field("allow").unwrap();
                    assert!(!allow.split(", ").any(|allowed| allowed == method));
                }
            }
        }
    });
}

#[test]
fn every_route_is_described() {
    let document = value("/api");
    let paths = document["paths"].as_object().unwrap();
    for (pattern, route) in Route::PATTERNS {
        let is_known = route != Route::Unknown
            && (cfg!(feature = "ui") || !matches!(route, Route::Docs | Route::DocsFile));
        let path = pattern.replace("instances/*", "instances/{id}");
        let path = &path.replace("docs/*", "docs/{file}");
        assert_eq!(paths.contains_key(path), is_known, "{pattern}");
        for (name, method) in [
            ("get", Method::Get),
            ("post", Method::Post),
            ("put", Method::Put),
        ] {
            let described = paths.get(path).is_some_and(|item| item.get(name).is_some());
            assert_eq!(
                described,
                is_known && route.allows(method),
                "{name} {pattern}"
            );
        }
    }
}

#[test]
fn events_have_the_members_of_their_schema() {
    let document = value("/api");
    let schema = &document["components"]["schemas"]["Event"];
    let event = json!({"type": "shutdown", "time": "", "instance": null, "logs": ""});
    check(&document, schema, &event);
}

#[test]
fn references_lead_somewhere() {
    fn follow(document: &Value, part: &Value) {
        match part {
            Value::Object(members) => {
                assert!(!resolve(document, part).is_null());
                members.values().for_each(|member| follow(document, member));
            }
            Value::Array(items) => items.iter().for_each(|item| follow(document, item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = value("/api");
    follow(&document, &document);
    let responses = &document["components"]["responses"];
    assert_eq!(responses.as_object().unwrap().len(), REFUSALS.len());
}

#[test]
fn the_server_is_where_the_prefix_is() {
    for (prefix, url) in [
        ("/api", "/api/v1"),
        ("", "/v1"),
        ("/a:b/%41", "/a:b/%41/v1"),
        ("/{x} ä?", "/%7Bx%7D%20%C3%A4%3F/v1"),
    ] {
        let document: Value = serde_json::from_slice(&document(prefix)).unwrap();
        assert_eq!(document["servers"][0]["url"], url);
    }
}
