//! All that the API does.

use serde_json::{Value, json};

use super::operation::{Access, Operation, reference};

/// Path, method and description.
pub(super) fn all() -> Vec<(&'static str, &'static str, Operation)> {
    let mut operations = instances();
    operations.extend(master());
    operations.extend(documentation());
    operations
}

fn instances() -> Vec<(&'static str, &'static str, Operation)> {
    const ALL: &str = "/instances";
    const ONE: &str = "/instances/{id}";
    let id = || {
        json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"},
               "description": "8 hexadecimal digits, or `********` for the key instance"})
    };
    let list = json!({"type": "array", "items": reference("Instance")});
    vec![
        (
            ALL,
            "get",
            Operation::new(
                "listInstances",
                "List all instances, the key instance first",
                (200, "All instances", in_json(list)),
            ),
        ),
        (
            ALL,
            "post",
            Operation::new(
                "createInstance",
                "Create an instance and start it",
                (
                    201,
                    "The instance, which is being started",
                    in_json(reference("Instance")),
                ),
            )
            .takes("CreateInstance")
            .refuses(&[409]),
        ),
        (
            ONE,
            "get",
            Operation::new("getInstance", "Get one instance", instance())
                .refuses(&[404])
                .parameter(id()),
        ),
        (
            ONE,
            "patch",
            Operation::new(
                "updateInstance",
                "Change what is given, or start, stop, restart or reset",
                instance(),
            )
            .takes("UpdateInstance")
            .refuses(&[404])
            .parameter(id()),
        ),
        (
            ONE,
            "put",
            Operation::new(
                "replaceInstance",
                "Give an instance another URL and start it",
                instance(),
            )
            .takes("ReplaceInstance")
            .refuses(&[403, 404, 409])
            .parameter(id()),
        ),
        (
            ONE,
            "delete",
            Operation::new(
                "deleteInstance",
                "Stop and delete an instance",
                (204, "It is gone", None),
            )
            .refuses(&[403, 404])
            .parameter(id()),
        ),
    ]
}

fn master() -> Vec<(&'static str, &'static str, Operation)> {
    const INFO: &str = "/info";
    let info = || {
        (
            200,
            "The master and its machine",
            in_json(reference("Info")),
        )
    };
    let target = json!({"name": "target", "in": "query", "required": true,
        "description": "`host:port`", "schema": {"type": "string", "minLength": 1},
        "example": "example.org:443"});
    let last = json!({"name": "Last-Event-ID", "in": "header", "required": false,
        "description": "The `id` of the last event that was seen: what was missed is sent again",
        "schema": {"type": "integer", "minimum": 0}});
    let text = || json!({"type": "string"});
    vec![
        (
            INFO,
            "get",
            Operation::new("getInfo", "Describe the master and its machine", info()).tag("master"),
        ),
        (
            INFO,
            "post",
            Operation::new("renameMaster", "Set the master's alias", info())
                .tag("master")
                .takes("RenameMaster"),
        ),
        (
            "/tcping",
            "get",
            Operation::new(
                "tcping",
                "Try to connect to an address",
                (200, "Whether it answered", in_json(reference("Tcping"))),
            )
            .tag("master")
            .parameter(target),
        ),
        (
            "/events",
            "get",
            Operation::new(
                "streamEvents",
                "Watch all instances",
                (
                    200,
                    "Server-sent events named `instance`; the data of each is an `Event`",
                    Some(("text/event-stream", text())),
                ),
            )
            .tag("master")
            .parameter(last),
        ),
        (
            "/metrics",
            "get",
            Operation::new(
                "getMetrics",
                "Counters for Prometheus",
                (200, "Text format 0.0.4", Some(("text/plain", text()))),
            )
            .tag("master")
            .access(Access::Bearer),
        ),
    ]
}

fn documentation() -> Vec<(&'static str, &'static str, Operation)> {
    let text = || json!({"type": "string"});
    let object = json!({"type": "object"});
    let mut operations = vec![(
        "/openapi.json",
        "get",
        Operation::new(
            "getDescription",
            "This document",
            (200, "An OpenAPI document", in_json(object)),
        ),
    )];
    if cfg!(feature = "ui") {
        let names = ["swagger-ui-bundle.js", "swagger-ui.css", "start.js"];
        let file = json!({"name": "file", "in": "path", "required": true,
            "schema": {"type": "string", "enum": names}});
        let files = Operation::new(
            "getDocsFile",
            "A file of the page for people",
            (200, "A script or a style sheet", Some(("text/*", text()))),
        )
        .refuses(&[404])
        .parameter(file);
        operations.push((
            "/docs",
            "get",
            Operation::new(
                "getDocs",
                "This document for people",
                (200, "A page", Some(("text/html", text()))),
            ),
        ));
        operations.push(("/docs/{file}", "get", files));
    }
    let public = |(path, method, operation): (_, _, Operation)| {
        (
            path,
            method,
            operation.tag("documentation").access(Access::Public),
        )
    };
    operations.into_iter().map(public).collect()
}

fn instance() -> (u16, &'static str, Option<(&'static str, Value)>) {
    (
        200,
        "The instance as it is now",
        in_json(reference("Instance")),
    )
}

const fn in_json(schema: Value) -> Option<(&'static str, Value)> {
    Some(("application/json", schema))
}
