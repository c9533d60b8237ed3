//! The shapes of what goes in and out.

use serde_json::{Map, Value, json};

use super::operation::reference;

/// All of them by name.
pub(super) fn all() -> Value {
    json!({
        "Error": error(),
        "Instance": instance(),
        "Meta": meta(),
        "Peer": peer(),
        "Event": event(),
        "Info": info(),
        "Tcping": tcping(),
        "CreateInstance": create(),
        "UpdateInstance": update(),
        "ReplaceInstance": replace(),
        "RenameMaster": rename(),
    })
}

/// An object whose members are always there.
fn complete<const N: usize>(members: [(&str, Value); N]) -> Value {
    let names = members.each_ref().map(|(name, _)| *name);
    let mut schema = partial(members);
    schema["required"] = json!(names.to_vec());
    schema
}

/// An object whose members may be missing.
fn partial<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members.map(|(name, schema)| (name.to_owned(), schema));
    let members: Map<_, _> = members.into_iter().collect();
    json!({"type": "object", "properties": members})
}

fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

fn one_of(values: &[&str], about: &str) -> Value {
    json!({"type": "string", "enum": values, "description": about})
}

fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

/// Also fits signed 64-bit integers, which is what other languages have.
fn count(about: &str) -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0, "description": about})
}

/// The same, or `null`, which means not given.
fn optional(mut schema: Value) -> Value {
    if schema.get("$ref").is_some() {
        return json!({"oneOf": [schema, {"type": "null"}]});
    }
    let own = schema["type"].take();
    schema["type"] = json!([own, "null"]);
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    schema
}

fn error() -> Value {
    let same = "The same text in both members";
    complete([("error", text(same)), ("message", text(same))])
}

fn instance() -> Value {
    let id = json!({"type": "string", "pattern": "^([0-9a-f]{8}|\\*{8})$",
        "description": "`********` is the key instance"});
    let kind = one_of(&["client", "server", ""], "Empty for the key instance");
    let status = one_of(
        &["running", "stopped", "error", ""],
        "Empty for the key instance",
    );
    let mode = json!({"type": "integer", "enum": [0, 1, 2], "description": "0: unknown yet"});
    complete([
        ("id", id),
        ("alias", text("Display name")),
        ("type", kind),
        ("status", status),
        (
            "url",
            text("As given, with what it inherits; the API key of the key instance"),
        ),
        (
            "config",
            text("`url` with every default; the master's id of the key instance"),
        ),
        ("restart", flag("Start it when the master starts")),
        ("meta", reference("Meta")),
        ("mode", mode),
        ("ping", count("Round trip to the peer, ms")),
        ("pool", count("Idle data connections")),
        ("tcps", count("TCP relays now")),
        ("udps", count("UDP relays now")),
        ("tcprx", count("Bytes read from users or targets over TCP")),
        ("tcptx", count("Bytes written to them")),
        ("udprx", count("Bytes read from users or targets over UDP")),
        ("udptx", count("Bytes written to them")),
    ])
}

fn short(about: &str) -> Value {
    json!({"type": "string", "maxLength": 256, "description": about})
}

fn tags() -> Value {
    json!({"type": "object", "maxProperties": 64, "additionalProperties": short("Free text"),
        "propertyNames": {"maxLength": 256}})
}

fn meta() -> Value {
    complete([("peer", reference("Peer")), ("tags", tags())])
}

fn peer() -> Value {
    let members = [
        ("sid", short("Service id")),
        ("type", short("Service type")),
        ("alias", short("Service alias")),
    ];
    complete(members)
}

fn event() -> Value {
    let kinds = ["initial", "create", "update", "delete", "log", "shutdown"];
    complete([
        ("type", one_of(&kinds, "What happened")),
        ("time", json!({"type": "string", "format": "date-time"})),
        ("instance", optional(reference("Instance"))),
        ("logs", text("The line of a `log` event")),
    ])
}

fn info() -> Value {
    let cpu = json!({"type": "integer", "minimum": -1, "description": "Percent; -1: unknown"});
    complete([
        ("os", text("Operating system")),
        ("arch", text("Processor")),
        ("ver", text("Version of the program")),
        ("name", text("Host of the master URL")),
        ("log", text("Log level")),
        ("tls", one_of(&["0", "1", "2"], "TLS code in force")),
        ("crt", text("Path of the certificate")),
        ("key", text("Path of its key")),
        ("alias", text("Display name")),
        ("mid", text("Master id")),
        ("uptime", count("Seconds since the master started")),
        ("sysup", count("Seconds since the machine started")),
        ("cpu", cpu),
        ("mem_total", count("Bytes")),
        ("mem_used", count("Bytes")),
        ("swap_total", count("Bytes")),
        ("swap_used", count("Bytes")),
        ("netrx", count("Bytes received")),
        ("nettx", count("Bytes sent")),
        ("diskr", count("Bytes read")),
        ("diskw", count("Bytes written")),
        ("noc", count("Cores")),
    ])
}

fn tcping() -> Value {
    complete([
        ("target", text("As given")),
        ("connected", flag("Whether it answered")),
        ("latency", count("ms")),
        ("error", optional(text("Why it did not answer"))),
    ])
}

fn url() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 4096,
        "description": "`server://…` or `client://…`",
        "examples": ["server://0.0.0.0:10101/127.0.0.1:8080?tls=1"]})
}

fn create() -> Value {
    let mut schema = partial([("url", url()), ("alias", optional(short("Display name")))]);
    schema["required"] = json!(["url"]);
    schema
}

fn replace() -> Value {
    complete([("url", url())])
}

fn rename() -> Value {
    partial([("alias", optional(short("Display name")))])
}

fn update() -> Value {
    let actions = ["start", "stop", "restart", "reset"];
    let peer = partial([
        ("sid", optional(short("Service id"))),
        ("type", optional(short("Service type"))),
        ("alias", optional(short("Service alias"))),
    ]);
    let meta = partial([("peer", optional(peer)), ("tags", optional(tags()))]);
    partial([
        ("alias", optional(short("Display name; empty: as it is"))),
        ("restart", optional(flag("Start it when the master starts"))),
        (
            "action",
            optional(one_of(&actions, "`reset` sets the byte counters to 0")),
        ),
        ("meta", optional(meta)),
    ])
}
