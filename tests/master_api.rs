//! Every endpoint, status and error text of `rest.md` §1 and §3, one row each.

use serde_json::Value;

use crate::support::api::{Answer, Api, Conn};
use crate::support::master::{Master, SERVER, expect_object};

/// Which key a row sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Right,
    Missing,
    Empty,
    Wrong,
}
use Key::{Empty, Missing, Right, Wrong};

/// What the body of an answer must be.
#[derive(Clone, Copy, Debug)]
enum Is {
    /// An error with this text; `…` at its end stands for anything.
    Error(&'static str),
    /// An instance object.
    Object,
    /// An array of them, the key instance first.
    List,
    /// The object of `/info`.
    Info,
    /// Nothing.
    Nothing,
    /// Whatever goes with this `Content-Type`.
    Type(&'static str),
    /// An error whose text is not fixed.
    SomeError,
}
use Is::{Error, Info, List, Nothing, Object, SomeError, Type};

/// Method, path after the base, key, body, status, answer. `{id}` is an instance, `{a256}` and
/// `{a257}` are strings of that many bytes, `{é258}` has 258 bytes in 129 letters, `{url}` is a
/// good URL.
type Row = (&'static str, &'static str, Key, &'static str, u16, Is);

const REQUIRED: Is = Error("Unauthorized: API key required");
const INVALID: Is = Error("Unauthorized: Invalid API key");
const BODY: Is = Error("Invalid request body");
const FORMAT: Is = Error("Invalid URL format");
const SCHEME: Is = Error("Invalid URL scheme");
const ALIAS: Is = Error("Instance alias exceeds maximum length 256");
const METHOD: Is = Error("Method not allowed");
const UNKNOWN: Is = Error("Not found");
const NOBODY: Is = Error("Instance not found");
const NO_ID: Is = Error("Instance ID is required");
const FORBIDDEN: Is = Error("Forbidden: API Key");

#[rustfmt::skip]
const AUTHENTICATION: &[Row] = &[
    ("GET", "/instances", Missing, "", 401, REQUIRED),
    ("GET", "/instances", Empty, "", 401, REQUIRED),
    ("GET", "/instances", Wrong, "", 401, INVALID),
    ("POST", "/instances", Missing, "{bad", 401, REQUIRED),
    ("GET", "/instances/", Missing, "", 401, REQUIRED),
    ("GET", "/instances/{id}", Missing, "", 401, REQUIRED),
    ("PATCH", "/instances/{id}", Missing, "{}", 401, REQUIRED),
    ("PUT", "/instances/{id}", Missing, "{}", 401, REQUIRED),
    ("DELETE", "/instances/{id}", Missing, "", 401, REQUIRED),
    ("GET", "/instances/ffffffff", Missing, "", 401, REQUIRED),
    ("GET", "/instances/********", Missing, "", 401, REQUIRED),
    ("PATCH", "/instances/********", Wrong, "{}", 401, INVALID),
    ("GET", "/events", Missing, "", 401, REQUIRED),
    ("POST", "/events", Missing, "", 401, REQUIRED),
    ("GET", "/info", Missing, "", 401, REQUIRED),
    ("POST", "/info", Missing, "{bad", 401, REQUIRED),
    ("DELETE", "/info", Missing, "", 401, REQUIRED),
    ("GET", "/tcping", Missing, "", 401, REQUIRED),
    ("GET", "/tcping?target=127.0.0.1:1", Empty, "", 401, REQUIRED),
    ("GET", "/metrics", Missing, "", 401, REQUIRED),
    ("HEAD", "/instances", Missing, "", 401, Nothing),
    ("DELETE", "/instances", Missing, "", 401, REQUIRED),
    ("GET", "/openapi.json", Missing, "", 200, Type("application/json")),
    ("GET", "/openapi.json", Empty, "", 200, Type("application/json")),
    ("GET", "/docs", Missing, "", 200, Type("text/html…")),
    ("GET", "/docs", Right, "", 200, Type("text/html…")),
];

#[rustfmt::skip]
const ROUTES: &[Row] = &[
    ("OPTIONS", "/instances", Missing, "", 200, Nothing),
    ("OPTIONS", "/instances/", Missing, "", 200, Nothing),
    ("OPTIONS", "/instances/{id}", Missing, "", 200, Nothing),
    ("OPTIONS", "/instances/ffffffff", Empty, "", 200, Nothing),
    ("OPTIONS", "/events", Missing, "", 200, Nothing),
    ("OPTIONS", "/info", Right, "", 200, Nothing),
    ("OPTIONS", "/tcping", Missing, "", 200, Nothing),
    ("OPTIONS", "/metrics", Missing, "", 200, Nothing),
    ("OPTIONS", "/openapi.json", Missing, "", 200, Nothing),
    ("OPTIONS", "/docs", Missing, "", 200, Nothing),
    ("OPTIONS", "/nosuch", Missing, "", 200, Nothing),
    ("OPTIONS", "/instances", Missing, "{\"with\":\"a body\"}", 200, Nothing),
    ("GET", "/nosuch", Right, "", 404, UNKNOWN),
    ("POST", "/nosuch", Right, "{}", 404, UNKNOWN),
    ("DELETE", "/nosuch", Right, "", 404, UNKNOWN),
    ("GET", "/instancesx", Right, "", 404, UNKNOWN),
    ("GET", "/INSTANCES", Right, "", 404, UNKNOWN),
    ("GET", "/instances/{id}/more", Right, "", 404, SomeError),
    ("GET", "/info/", Right, "", 404, UNKNOWN),
    ("GET", "/info/x", Right, "", 404, UNKNOWN),
    ("GET", "/events/", Right, "", 404, UNKNOWN),
    ("HEAD", "/nosuch", Right, "", 404, Nothing),
    ("GET", "/nosuch?a=b", Right, "", 404, UNKNOWN),
    ("DELETE", "/instances", Right, "", 405, METHOD),
    ("PUT", "/instances", Right, "{}", 405, METHOD),
    ("PATCH", "/instances", Right, "{bad", 405, METHOD),
    ("POST", "/instances/{id}", Right, "{}", 405, METHOD),
    ("POST", "/instances/********", Right, "{}", 405, METHOD),
    ("POST", "/events", Right, "", 405, METHOD),
    ("DELETE", "/events", Right, "", 405, METHOD),
    ("DELETE", "/info", Right, "", 405, METHOD),
    ("PUT", "/info", Right, "{}", 405, METHOD),
    ("PATCH", "/info", Right, "{}", 405, METHOD),
    ("POST", "/tcping", Right, "", 405, METHOD),
    ("POST", "/metrics", Right, "", 405, METHOD),
    ("POST", "/openapi.json", Missing, "", 405, METHOD),
    ("DELETE", "/openapi.json", Right, "", 405, METHOD),
    ("PUT", "/docs", Missing, "", 405, METHOD),
    ("FROB", "/instances", Right, "", 405, METHOD),
    ("TRACE", "/instances/{id}", Right, "", 405, METHOD),
    ("PROPFIND", "/info", Right, "", 405, METHOD),
    ("HEAD", "/instances", Right, "", 200, Nothing),
    ("HEAD", "/instances/{id}", Right, "", 200, Nothing),
    ("HEAD", "/instances/ffffffff", Right, "", 404, Nothing),
    ("HEAD", "/info", Right, "", 200, Nothing),
    ("HEAD", "/openapi.json", Missing, "", 200, Nothing),
    ("HEAD", "/docs", Missing, "", 200, Nothing),
    ("GET", "/metrics", Right, "", 200, Type("text/plain…")),
];

#[rustfmt::skip]
const READING: &[Row] = &[
    ("GET", "/instances", Right, "", 200, List),
    ("GET", "/instances?query=ignored", Right, "", 200, List),
    ("GET", "/%69nstances", Right, "", 200, List),
    ("GET", "/instances/{id}", Right, "", 200, Object),
    ("GET", "/instances/{id}?x", Right, "", 200, Object),
    ("GET", "/instances/********", Right, "", 200, Object),
    ("GET", "/instances/%2A%2A%2A%2A%2A%2A%2A%2A", Right, "", 200, Object),
    ("GET", "/instances/%2a%2a%2a%2a****", Right, "", 200, Object),
    ("GET", "/instances/%252A%252A%252A%252A%252A%252A%252A%252A", Right, "", 404, NOBODY),
    ("GET", "/instances/*******", Right, "", 404, NOBODY),
    ("GET", "/instances/ffffffff", Right, "", 404, NOBODY),
    ("GET", "/instances/x%20y", Right, "", 404, NOBODY),
    ("GET", "/instances/", Right, "", 400, NO_ID),
    ("PATCH", "/instances/", Right, "{bad", 400, NO_ID),
    ("PUT", "/instances/", Right, "{}", 400, NO_ID),
    ("DELETE", "/instances/", Right, "", 400, NO_ID),
    ("POST", "/instances/", Right, "{}", 400, NO_ID),
    ("PATCH", "/instances/ffffffff", Right, "{bad", 404, NOBODY),
    ("PUT", "/instances/ffffffff", Right, "{bad", 404, NOBODY),
    ("DELETE", "/instances/ffffffff", Right, "", 404, NOBODY),
    ("POST", "/instances/ffffffff", Right, "", 404, NOBODY),
    ("GET", "/info", Right, "", 200, Info),
    ("GET", "/info?x=y", Right, "", 200, Info),
    ("POST", "/info", Right, "{\"alias\":\"home\"}", 200, Info),
    ("POST", "/info", Right, "{\"alias\":\"{a256}\"}", 200, Info),
    ("POST", "/info", Right, "{\"alias\":\"home\",\"more\":[1]}", 200, Info),
    ("POST", "/info", Right, "", 400, BODY),
    ("POST", "/info", Right, "{bad", 400, BODY),
    ("POST", "/info", Right, "[]", 400, BODY),
    ("POST", "/info", Right, "{\"alias\":5}", 400, BODY),
    ("POST", "/info", Right, "{\"alias\":\"{a257}\"}", 400, Error("Master alias exceeds maximum length 256")),
    ("POST", "/info", Right, "{\"alias\":\"{é258}\"}", 400, Error("Master alias exceeds maximum length 256")),
    ("GET", "/tcping", Right, "", 400, Error("Target address required")),
    ("GET", "/tcping?target=", Right, "", 400, Error("Target address required")),
    ("GET", "/tcping?other=127.0.0.1:1", Right, "", 400, Error("Target address required")),
    ("GET", "/tcping?target=127.0.0.1:1", Right, "", 200, Type("application/json")),
];

/// Each is refused both by `POST /instances` and by `PUT /instances/{id}`.
#[rustfmt::skip]
const BAD_CREATIONS: &[(&str, Is)] = &[
    ("", BODY),
    ("{", BODY),
    ("{bad json", BODY),
    ("null", BODY),
    ("5", BODY),
    ("[]", BODY),
    ("\"server://127.0.0.1:0/127.0.0.1:0\"", BODY),
    ("{}", BODY),
    ("{\"url\":\"\"}", BODY),
    ("{\"url\":null}", BODY),
    ("{\"url\":5}", BODY),
    ("{\"url\":[\"{url}\"]}", BODY),
    ("{\"url\":{}}", BODY),
    ("{\"alias\":\"only\"}", BODY),
    ("{\"url\":\"{url}\"} more", BODY),
    ("{\"URL\":\"{url}\"}", BODY),
    ("{\"url\":\"x\"}", FORMAT),
    ("{\"url\":\"not a url\"}", FORMAT),
    ("{\"url\":\"://\"}", FORMAT),
    ("{\"url\":\"server://\"}", FORMAT),
    ("{\"url\":\"server://%zz\"}", FORMAT),
    ("{\"url\":\"server://127.0.0.1/127.0.0.1:2\"}", FORMAT),
    ("{\"url\":\"server://127.0.0.1:1\"}", FORMAT),
    ("{\"url\":\"server://127.0.0.1:1/\"}", FORMAT),
    ("{\"url\":\"client://127.0.0.1:1/127.0.0.1\"}", FORMAT),
    ("{\"url\":\"server://127.0.0.1:99999/127.0.0.1:2\"}", FORMAT),
    ("{\"url\":\"server://127.0.0.1:x/127.0.0.1:2\"}", FORMAT),
    ("{\"url\":\"http://x:1/y:2\"}", SCHEME),
    ("{\"url\":\"ftp://a:1/b:2?max=0\"}", SCHEME),
    ("{\"url\":\"master://127.0.0.1:1/127.0.0.1:2\"}", SCHEME),
    ("{\"url\":\"{url}&max=0\"}", Error("Invalid URL parameter: max: …")),
    ("{\"url\":\"{url}&max=many\"}", Error("Invalid URL parameter: max: …")),
    ("{\"url\":\"client://127.0.0.1:1/127.0.0.1:2?mode=2&min=0\"}", Error("Invalid URL parameter: min: …")),
    ("{\"url\":\"server://127.0.0.1:1/127.0.0.1:2?mode=3\"}", Error("Invalid URL parameter: mode: …")),
    ("{\"url\":\"{url}&tls=3\"}", Error("Invalid URL parameter: tls: …")),
    ("{\"url\":\"{url}&log=loud\"}", Error("Invalid URL parameter: log: …")),
    ("{\"url\":\"{url}&type=1\"}", Error("Invalid URL parameter: type: …")),
    ("{\"url\":\"{url}&proto=new\"}", Error("Invalid URL parameter: proto: …")),
    ("{\"url\":\"{url}&lbs=3\"}", Error("Invalid URL parameter: lbs: …")),
    ("{\"url\":\"{url}&dns=never\"}", Error("Invalid URL parameter: dns: …")),
    ("{\"url\":\"{url}&dial=somewhere\"}", Error("Invalid URL parameter: dial: …")),
    ("{\"url\":\"{url}&read=-1s\"}", Error("Invalid URL parameter: read: …")),
    ("{\"url\":\"{url}&rate=-1\"}", Error("Invalid URL parameter: rate: …")),
    ("{\"url\":\"{url}&slot=few\"}", Error("Invalid URL parameter: slot: …")),
    ("{\"url\":\"{url}&proxy=3\"}", Error("Invalid URL parameter: proxy: …")),
    ("{\"url\":\"{url}&block=4\"}", Error("Invalid URL parameter: block: …")),
    ("{\"url\":\"{url}&notcp=2\"}", Error("Invalid URL parameter: notcp: …")),
    ("{\"url\":\"{url}&noudp=yes\"}", Error("Invalid URL parameter: noudp: …")),
    ("{\"url\":\"{url}&notcp=1&noudp=1\"}", Error("Invalid URL parameter: no…")),
];

/// What only `POST /instances` looks at: the alias, after everything about the URL.
#[rustfmt::skip]
const BAD_ALIASES: &[Row] = &[
    ("POST", "/instances", Right, "{\"url\":\"{url}\",\"alias\":5}", 400, BODY),
    ("POST", "/instances", Right, "{\"url\":\"{url}\",\"alias\":\"{a257}\"}", 400, ALIAS),
    ("POST", "/instances", Right, "{\"url\":\"{url}\",\"alias\":\"{é258}\"}", 400, ALIAS),
    ("POST", "/instances", Right, "{\"url\":\"x\",\"alias\":\"{a257}\"}", 400, FORMAT),
    ("POST", "/instances", Right, "{\"url\":\"http://x:1/y:2\",\"alias\":\"{a257}\"}", 400, SCHEME),
    ("POST", "/instances", Right, "{\"url\":\"{url}&max=0\",\"alias\":\"{a257}\"}", 400, Error("Invalid URL parameter: max: …")),
];

#[rustfmt::skip]
const CHANGES: &[Row] = &[
    ("PATCH", "/instances/{id}", Right, "", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{bad", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "[]", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "5", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":5}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"restart\":\"yes\"}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"restart\":1}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"action\":5}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":5}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":\"x\"}}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":{\"sid\":5}}}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":[]}}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{\"a\":5}}}", 400, BODY),
    ("PATCH", "/instances/{id}", Right, "{\"action\":\"frobnicate\"}", 400, Error("Invalid action: frobnicate")),
    ("PATCH", "/instances/{id}", Right, "{\"action\":\"START\"}", 400, Error("Invalid action: START")),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":\"{a257}\"}", 400, ALIAS),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":\"{é258}\"}", 400, ALIAS),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":{\"sid\":\"{a257}\"}}}", 400, Error("Meta peer.sid exceeds maximum length 256")),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":{\"type\":\"{a257}\"}}}", 400, Error("Meta peer.type exceeds maximum length 256")),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":{\"alias\":\"{a257}\"}}}", 400, Error("Meta peer.alias exceeds maximum length 256")),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{\"{a257}\":\"\"}}}", 400, Error("Meta tag key exceeds maximum length 256")),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{\"a\":\"{a257}\"}}}", 400, Error("Meta tag value exceeds maximum length 256")),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{65 tags}}}", 400, SomeError),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{64 tags}}}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"tags\":{\"{a256}\":\"{a256}\"}}}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":{\"sid\":\"{a256}\"}}}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":\"{a256}\"}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"unknown\":[1,{}]}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":\"\"}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"alias\":null,\"restart\":null,\"action\":null,\"meta\":null}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{}}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"meta\":{\"peer\":null,\"tags\":null}}", 200, Object),
    ("PATCH", "/instances/{id}", Right, " {\"restart\":false} ", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"action\":\"reset\"}", 200, Object),
    ("PATCH", "/instances/{id}", Right, "{\"action\":\"stop\"}", 200, Object),
    ("PATCH", "/instances/********", Right, "{}", 200, Object),
    ("PATCH", "/instances/********", Right, "{\"alias\":\"x\"}", 200, Object),
    ("PATCH", "/instances/********", Right, "{\"action\":\"stop\"}", 200, Object),
    ("PATCH", "/instances/********", Right, "{\"restart\":true}", 200, Object),
    ("PUT", "/instances/********", Right, "{\"url\":\"{url}\"}", 403, FORBIDDEN),
    ("PUT", "/instances/%2A%2A%2A%2A%2A%2A%2A%2A", Right, "{\"url\":\"{url}\"}", 403, FORBIDDEN),
    ("DELETE", "/instances/********", Right, "", 403, FORBIDDEN),
    ("PUT", "/instances/{id}", Right, "{\"url\":\"{url}\"}", 409, Error("Instance URL conflict")),
];

/// A master with a stopped instance, and the rows with its id in them.
struct Bench {
    master: Master,
    id: String,
}

impl Bench {
    fn start() -> Self {
        let master = Master::start();
        let id = master.api.create_id(SERVER);
        master.api.until_status(&id, "running");
        master.api.act(&id, "stop");
        master.api.until_status(&id, "stopped");
        Self { master, id }
    }

    fn request(&self, api: &Api, (method, path, key, body, ..): Row) -> String {
        let tags = |count| {
            let tags: Vec<_> = (0..count).map(|tag| format!("\"t{tag}\":\"\"")).collect();
            format!("{{{}}}", tags.join(","))
        };
        let body = body
            .replace("{a256}", &"a".repeat(256))
            .replace("{a257}", &"a".repeat(257))
            .replace("{é258}", &"é".repeat(129))
            .replace("{64 tags}", &tags(64))
            .replace("{65 tags}", &tags(65))
            .replace("{url}", SERVER);
        let key = match key {
            Right => format!("X-API-Key: {}\r\n", api.key),
            Missing => String::new(),
            Empty => "X-API-Key:\r\n".to_owned(),
            Wrong => format!("X-API-Key: {}\r\n", "0".repeat(32)),
        };
        let (base, path, length) = (&api.base, path.replace("{id}", &self.id), body.len());
        format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: {length}\r\n\r\n{body}"
        )
    }

    /// Runs every row, each on a connection of its own or all on one.
    fn run(&self, api: &Api, rows: &[Row], one_connection: bool) {
        let mut shared = one_connection.then(|| Conn::plain(api.addr));
        let mut failures = Vec::new();
        for row in rows {
            let request = self.request(api, *row);
            let answer = match &mut shared {
                None => api.raw(request),
                Some(conn) => {
                    conn.send(request).unwrap();
                    let answer = conn.answer_to(row.0);
                    answer.unwrap_or_else(|error| panic!("{error} at {row:?}"))
                }
            };
            let checked = std::panic::catch_unwind(|| check(row, &answer));
            if checked.is_err() {
                failures.push(format!(
                    "{row:?}\n  got {}: {:?}",
                    answer.head,
                    answer.text()
                ));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

fn check(row: &Row, answer: &Answer) {
    let (method, _, _, _, status, is) = *row;
    assert_eq!(answer.status, status, "{row:?}");
    answer.expect_manners(&format!("{row:?}"));
    if status == 405 {
        let allow = answer.header("Allow").expect("405 without Allow");
        assert!(!allow.is_empty() && !allow.contains(method), "{allow}");
    }
    match is {
        Error(text) => match text.strip_suffix('…') {
            None => drop(answer.clone().expect_error(status, text)),
            Some(start) => {
                let said = answer.json()["error"].as_str().unwrap().to_owned();
                assert!(
                    said.starts_with(start) && said.len() > start.len(),
                    "{said}"
                );
            }
        },
        SomeError => assert!(answer.json()["error"].is_string()),
        Object => expect_object(answer.text().trim_end()),
        List => {
            let list = answer.json();
            assert_eq!(list[0]["id"], "********");
            assert!(answer.text().starts_with("[{\"id\":\"********\","));
        }
        Info => assert!(answer.json()["ver"].is_string()),
        Nothing => assert!(answer.body.is_empty(), "{:?}", answer.text()),
        Type(kind) => {
            let found = answer.header("Content-Type").unwrap_or_default();
            match kind.strip_suffix('…') {
                None => assert_eq!(found, kind),
                Some(start) => assert!(found.starts_with(start), "{found}"),
            }
        }
    }
}

fn bad_creations() -> Vec<Row> {
    let both = BAD_CREATIONS.iter().flat_map(|(body, is)| {
        let row = |method, path| (method, path, Right, *body, 400, *is);
        [row("POST", "/instances"), row("PUT", "/instances/{id}")]
    });
    both.collect()
}

fn all() -> Vec<Row> {
    let mut rows = [AUTHENTICATION, ROUTES, READING, BAD_ALIASES, CHANGES].concat();
    rows.extend(bad_creations());
    rows
}

#[test]
fn every_row_of_the_contract_under_v1() {
    let bench = Bench::start();
    assert!(all().len() > 250, "only {} rows", all().len());
    bench.run(&bench.master.api, &all(), false);
    // Nothing but the rows that must have changed it.
    let list = bench.master.api.list();
    assert_eq!(list.len(), 1, "a refused creation made an instance");
    assert_eq!(list[0]["alias"], "a".repeat(256));
    assert_eq!(list[0]["status"], "stopped");
}

#[test]
fn the_same_routes_answer_without_v1_and_on_one_connection() {
    let bench = Bench::start();
    let mut api = bench.master.api.clone();
    api.base = "/api".to_owned();
    bench.run(&api, &all(), true);
}

#[test]
fn head_says_what_get_would_without_the_body() {
    let bench = Bench::start();
    let api = &bench.master.api;
    for path in ["/instances", "/nosuch", "/openapi.json", "/docs"] {
        let (head, get) = (
            api.raw(api.request("HEAD", path, "")),
            api.raw(api.request("GET", path, "")),
        );
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(
            head.header("Content-Type"),
            get.header("Content-Type"),
            "{path}"
        );
        if let Some(length) = head.header("Content-Length") {
            assert_eq!(length.parse(), Ok(get.body.len()), "{path}");
        }
    }
}

#[test]
fn allow_names_the_methods_that_work() {
    let bench = Bench::start();
    let api = &bench.master.api;
    for (path, methods) in [
        ("/instances".to_owned(), &["GET", "POST"][..]),
        (
            format!("/instances/{}", bench.id),
            &["GET", "PATCH", "PUT", "DELETE"],
        ),
        ("/info".to_owned(), &["GET", "POST"]),
        ("/events".to_owned(), &["GET"]),
        ("/tcping".to_owned(), &["GET"]),
    ] {
        let answer = api.call("FROB", &path, "").expect(405);
        let allow: Vec<_> = answer.header("Allow").unwrap().split(", ").collect();
        for method in methods {
            assert!(allow.contains(method), "{path}: {allow:?}");
        }
        for wrong in ["POST", "PUT", "PATCH", "DELETE"] {
            let named = allow.contains(&wrong);
            assert_eq!(named, methods.contains(&wrong), "{path}: {allow:?}");
        }
    }
}

#[test]
fn a_refused_patch_changes_nothing_of_it() {
    let bench = Bench::start();
    let (api, id) = (&bench.master.api, &bench.id);
    let before = api.instance(id);
    let long = "x".repeat(257);
    for body in [
        serde_json::json!({ "alias": "new", "restart": false, "action": "dance" }),
        serde_json::json!({ "alias": "new", "meta": { "tags": { "a": long } } }),
        serde_json::json!({ "alias": long, "restart": false, "action": "start" }),
        serde_json::json!({ "action": "start", "meta": { "peer": { "sid": long } } }),
        serde_json::json!({ "alias": "new", "restart": "no" }),
    ] {
        api.call("PATCH", &format!("/instances/{id}"), &body.to_string())
            .expect(400);
        assert_eq!(api.instance(id), before, "{body}");
    }
    assert_eq!(before["alias"], Value::from(""));
}
