//! HTTP/1.1 as the master speaks it: framing, connections, prefixes, TLS (`rest.md` §1).

use std::io::Write;

use crate::support::api::{Answer, Api, Conn, PATIENCE};
use crate::support::attacker::tls_without_alpn;
use crate::support::binary::Launch;
use crate::support::certificates::Authority;
use crate::support::master::{Master, SERVER, Setup};
use crate::support::scratch::Scratch;
use crate::support::until::{secs, until};

/// The bytes of a `GET /info` up to the blank line.
fn info(api: &Api) -> String {
    let Api { base, key, .. } = api;
    format!("GET {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n")
}

/// An error that ends the connection: its status, its manners, the end.
fn refused(api: &Api, bytes: impl AsRef<[u8]>, status: u16) -> Answer {
    let mut conn = api.connect();
    drop(conn.send(bytes.as_ref()));
    let shown = String::from_utf8_lossy(&bytes.as_ref()[..bytes.as_ref().len().min(120)]);
    let answer = conn
        .answer()
        .unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    assert_eq!(answer.status, status, "{shown:?}: {}", answer.head);
    answer.expect_manners(&shown);
    assert!(conn.is_closed_within(secs(10)), "{shown:?}: still open");
    answer
}

#[test]
fn the_key_header_may_be_spelled_in_any_case_and_spaced() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    for header in [
        format!("X-API-Key: {key}"),
        format!("X-API-KEY: {key}"),
        format!("x-api-key: {key}"),
        format!("X-Api-Key:{key}"),
        format!("X-API-Key: \t{key} \t"),
    ] {
        let request = format!("GET {base}/info HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n");
        master.api.raw(request).expect(200);
    }
}

#[test]
fn only_the_key_itself_is_the_key() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    for wrong in [
        format!("{key}0"),
        key[..31].to_owned(),
        format!("0{key}"),
        "*".repeat(32),
        "é".to_owned(),
        "x".repeat(4000),
    ] {
        let request = format!("GET {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {wrong}\r\n\r\n");
        let answer = master.api.raw(request);
        answer.expect_error(401, "Unauthorized: Invalid API key");
    }
    // Other places for a key are no key.
    let asked =
        format!("GET {base}/info?key={key} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n");
    let answer = master.api.raw(asked);
    answer.expect_error(401, "Unauthorized: API key required");
}

#[test]
fn a_connection_carries_many_requests_and_closes_when_asked() {
    let master = Master::start();
    let mut conn = master.api.connect();
    for _ in 0..20 {
        conn.send(info(&master.api) + "\r\n").unwrap();
        conn.answer().unwrap().expect(200);
    }
    conn.send(info(&master.api) + "Connection: close\r\n\r\n")
        .unwrap();
    conn.answer().unwrap().expect(200);
    assert!(conn.is_closed_within(secs(10)));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let master = Master::start();
    let api = &master.api;
    let mut bytes = String::new();
    for number in 0..30 {
        let request = match number % 3 {
            0 => api.request("GET", "/instances", ""),
            1 => api.request("PATCH", "/instances/nobody", "{}"),
            _ => api.request("OPTIONS", "/info", ""),
        };
        bytes += &request;
    }
    let mut conn = api.connect();
    conn.send(bytes).unwrap();
    for number in 0..30 {
        let status = conn.answer().unwrap().status;
        assert_eq!(status, [200, 404, 200][number % 3], "answer {number}");
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let master = Master::start();
    let mut conn = master.api.connect();
    for byte in master
        .api
        .request("POST", "/info", "{\"alias\":\"slow\"}")
        .bytes()
    {
        conn.send([byte]).unwrap();
    }
    assert_eq!(conn.answer().unwrap().expect(200).json()["alias"], "slow");
}

#[test]
fn http_1_0_is_answered_and_closed_unless_kept_alive() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    for (host, kept) in [
        ("", false),
        ("Host: x\r\n", false),
        ("Connection: keep-alive\r\n", true),
    ] {
        let mut conn = master.api.connect();
        for path in ["/info", "/openapi.json"] {
            let request = format!("GET {base}{path} HTTP/1.0\r\nX-API-Key: {key}\r\n{host}\r\n");
            conn.send(request).unwrap();
            let answer = conn.answer().unwrap().expect(200);
            assert_eq!(answer.header("Transfer-Encoding"), None, "{}", answer.head);
            assert!(answer.json().is_object());
            let stays = answer
                .header("Connection")
                .is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
            if !(kept && stays) {
                assert!(conn.is_closed_within(secs(10)));
                break;
            }
        }
    }
}

#[test]
fn malformed_heads_are_refused_and_the_connection_ends() {
    let master = Master::start();
    let base = &master.api.base;
    let key = format!("X-API-Key: {}\r\n", master.api.key);
    for head in [
        "GET\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        format!("GET {base}/info HTTP/1.1 more\r\nHost: x\r\n\r\n"),
        format!("GET {base}/info HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n"),
        format!("GET {base}/info HTTP/1.1\r\nHost: x\r\nbad name : x\r\n\r\n"),
        format!("GET {base}/info HTTP/1.1\r\nHost: x\r\n{key}X: a\0b\r\n\r\n"),
        format!("GET {base}/info HTTP/1.1\r\n{key}\r\n"),
        format!("GET {base}/info HTTP/1.1\r\nHost: x\r\nHost: y\r\n{key}\r\n"),
        format!("POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Content-Length: x\r\n\r\n"),
        format!("POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Content-Length: -1\r\n\r\n"),
        format!("POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Content-Length: +2\r\n\r\n{{}}"),
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"
        ),
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"
        ),
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"
        ),
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}X0\r\n\r\n"
        ),
    ] {
        refused(&master.api, head, 400);
    }
    let strange =
        format!("POST {base}/info HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: gzip\r\n\r\n");
    let mut conn = master.api.connect();
    conn.send(strange).unwrap();
    let status = conn.answer().unwrap().status;
    assert!(matches!(status, 400 | 501), "{status}");
    assert!(conn.is_closed_within(secs(10)));
    master.api.get("/info");
}

#[test]
fn another_version_of_http_is_refused() {
    let master = Master::start();
    let base = &master.api.base;
    for version in ["HTTP/2.0", "HTTP/0.9", "HTP/1.1"] {
        let mut conn = master.api.connect();
        conn.send(format!("GET {base}/info {version}\r\nHost: x\r\n\r\n"))
            .unwrap();
        let status = conn.answer().unwrap().status;
        assert!(matches!(status, 400 | 505), "{version}: {status}");
        assert!(conn.is_closed_within(secs(10)));
    }
}

#[test]
fn heads_over_16_kib_are_refused() {
    let master = Master::start();
    let request = |padding: usize| {
        let filler = format!("X-Filler: {}\r\n", "f".repeat(padding));
        info(&master.api) + &filler + "\r\n"
    };
    let fixed = request(0).len();
    master.api.raw(request(16 * 1024 - fixed)).expect(200);
    refused(&master.api, request(16 * 1024 - fixed + 1), 431);
    refused(&master.api, request(100_000), 431);
    refused(
        &master.api,
        format!("GET /{} HTTP/1.1\r\n", "u".repeat(20_000)),
        431,
    );
    // Without any end, and in one line.
    refused(&master.api, "a".repeat(20_000), 431);
    let many: String = (0..3000)
        .map(|number| format!("H{number}: x\r\n"))
        .collect();
    refused(&master.api, info(&master.api) + &many + "\r\n", 431);
    // As many headers as clients may send behind proxies.
    let some: String = (0..60).map(|number| format!("H{number}: x\r\n")).collect();
    master
        .api
        .raw(info(&master.api) + &some + "\r\n")
        .expect(200);
}

#[test]
fn a_head_has_100_fields_at_most() {
    let master = Master::start();
    let wide = |count: usize| {
        let request = info(&master.api) + "\r\n";
        let more = "X: y\r\n".repeat(count - (request.trim_end().lines().count() - 1));
        request.replacen("\r\n", &format!("\r\n{more}"), 1)
    };
    let mut conn = master.api.connect();
    conn.send(wide(100)).unwrap();
    conn.answer().unwrap().expect(200);
    refused(&master.api, wide(101), 431);
    master.api.get("/info");
}

#[test]
fn bodies_up_to_1_mib_are_read_and_no_more() {
    let master = Master::start();
    let api = &master.api;
    let body = |size: usize| {
        let json = "{\"alias\":\"big\"}";
        json.to_owned() + &" ".repeat(size - json.len())
    };
    let info = api.call("POST", "/info", &body(1 << 20)).expect(200);
    assert_eq!(info.json()["alias"], "big");
    let large = api.raw(api.request("POST", "/info", &body((1 << 20) + 1)));
    large.expect_manners("413");
    large.expect_error(413, "Request body too large");
    // Announced only.
    let Api { base, key, .. } = api;
    let head = format!("POST {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n");
    for length in ["1048577", "99999999999", "99999999999999999999999999"] {
        let mut conn = api.connect();
        conn.send(format!("{head}Content-Length: {length}\r\n\r\n"))
            .unwrap();
        let status = conn.answer().unwrap().status;
        assert!(
            status == 413 || (length.len() > 20 && status == 400),
            "{length}: {status}"
        );
    }
    // In chunks.
    let chunks = |count: usize| {
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
        format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{}2\r\n{{}}\r\n0\r\n\r\n",
            chunk.repeat(count)
        )
    };
    api.raw(chunks(17))
        .expect_error(413, "Request body too large");
    assert_ne!(api.raw(chunks(15)).status, 413);
}

#[test]
fn chunked_bodies_are_read_with_extensions_and_trailers() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    let head = format!(
        "POST {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for body in [
        "11\r\n{\"alias\":\"parts\"}\r\n0\r\n\r\n",
        "1\r\n{\r\n0010\r\n\"alias\":\"parts\"}\r\n0\r\n\r\n",
        "5;x=y\r\n{\"ali\r\nC;z\r\nas\":\"parts\"}\r\n0\r\nTrailer: x\r\n\r\n",
    ] {
        let mut conn = master.api.connect();
        conn.send(head.clone() + body).unwrap();
        let answer = conn.answer().unwrap().expect(200);
        assert_eq!(answer.json()["alias"], "parts");
        // Nothing of the body is left over for the next request.
        conn.send(info(&master.api) + "\r\n").unwrap();
        conn.answer().unwrap().expect(200);
    }
}

#[test]
fn expect_100_continue_gets_its_go_ahead() {
    let master = Master::start();
    let Api { base, key, .. } = &master.api;
    let head = |length: usize| {
        format!(
            "POST {base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let body = "{\"alias\":\"patient\"}";
    let mut conn = master.api.connect();
    conn.send(head(body.len())).unwrap();
    assert_eq!(conn.answer().unwrap().status, 100);
    conn.send(body).unwrap();
    assert_eq!(
        conn.answer().unwrap().expect(200).json()["alias"],
        "patient"
    );
    // What would be refused anyway is refused without the body.
    let mut conn = master.api.connect();
    conn.send(head(2 << 20)).unwrap();
    assert_eq!(conn.answer().unwrap().status, 413);
}

#[test]
fn options_is_answered_everywhere_without_a_key() {
    let master = Master::start();
    for target in [
        "*",
        "/",
        "/nowhere/at/all",
        "/api",
        "/api/v1",
        "/api/v1/instances?x",
        "/api//",
    ] {
        let request = format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: x\r\nOrigin: http://elsewhere\r\n\
             Access-Control-Request-Method: PATCH\r\n\
             Access-Control-Request-Headers: x-api-key,cache-control\r\n\r\n"
        );
        let answer = master.api.raw(request).expect(200);
        answer.expect_manners(target);
        assert!(answer.body.is_empty());
    }
}

#[test]
fn paths_outside_of_the_prefix_are_not_found() {
    let master = Master::start();
    let key = &master.api.key;
    for path in [
        "/nosuch",
        "/v1/instances",
        "/apiv1/instances",
        "/api/v2/instances",
        "/api/v1/v1/instances",
        "/ap/v1/instances",
        "/api/v1instances",
        "//api/v1/instances",
        "/api//v1/instances",
        "/api/v1//instances",
        "/x/api/v1/instances",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
        let answer = master.api.raw(request);
        answer.expect_manners(path);
        answer.expect_error(404, "Not found");
    }
}

#[test]
fn odd_paths_are_answered_with_an_error() {
    let master = Master::start();
    let key = &master.api.key;
    for path in [
        "/api/v1/instances/%zz",
        "/api/v1/instances/%",
        "/api/v1/instances/%ff",
        "/api/v1/instances/%00",
        "/api/v1/instances/..",
        "/api/v1/instances/../info",
        "/api/v1/%",
        "/%2e%2e/info",
        "http://x/api/v1/nosuch",
        "nosuch",
        "/api/v1/instances/%2f",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
        let answer = master.api.raw(request);
        answer.expect_manners(path);
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.head
        );
    }
}

#[test]
fn a_target_in_absolute_form_is_understood() {
    let master = Master::start();
    let Api {
        base, key, addr, ..
    } = &master.api;
    let request =
        format!("GET http://{addr}{base}/info HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n");
    master.api.raw(request).expect(200);
}

#[test]
fn prefixes_are_cut_at_the_end_and_matched_literally() {
    for (prefix, base) in [
        ("", "/api"),
        ("/", "/api"),
        ("/admin", "/admin"),
        ("/a/b/c//", "/a/b/c"),
        ("/a//b", "/a//b"),
        ("/*a:b{c}(d)+.$", "/*a:b{c}(d)+.$"),
        ("/:id/*", "/:id/*"),
        ("/v1", "/v1"),
        ("/instances", "/instances"),
    ] {
        let master = Setup::default().prefix(prefix).start();
        for base in [base.to_owned(), format!("{base}/v1")] {
            let mut api = master.api.clone();
            api.base = base;
            api.get("/instances/********");
            api.call("GET", "/docs", "").expect(200);
        }
        let mut elsewhere = master.api.clone();
        for wrong in ["/xa/b", "/anything/more", "", "/aXb"] {
            wrong.clone_into(&mut elsewhere.base);
            elsewhere
                .call("GET", "/info", "")
                .expect_error(404, "Not found");
        }
    }
}

#[test]
fn tls_1_is_tls_1_3_with_a_certificate_of_its_own() {
    let master = Setup::default().param("tls=1").start();
    assert_eq!(master.api.get("/info")["tls"], "1");
    let created = master.api.create(SERVER);
    assert!(created["url"].as_str().unwrap().contains("tls=1"));
    // In the clear there is nothing to be had, and nobody else is disturbed.
    let mut plain = Conn::plain(master.api.addr);
    plain
        .send("GET /api/v1/info HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    plain.patience(PATIENCE);
    let answered = plain.head().is_ok();
    assert!(!answered, "HTTP in the clear was answered");
    master.api.get("/info");
}

/// SHA-256 in hex of the certificate that the master presents now.
fn presented(master: &Master) -> String {
    let stream = tls_without_alpn(master.api.addr).expect("a TLS handshake");
    let chain = stream.conn.peer_certificates().expect("a certificate");
    crate::support::sha256(&chain[0])
}

#[test]
fn tls_2_uses_the_files_and_reads_them_again() {
    let (scratch, authority) = (Scratch::new(), Authority::new());
    let first = authority.issue_into(&scratch);
    let path = |name| scratch.path().join(name).display().to_string();
    let master = Setup::default()
        .param("tls=2")
        .param(&format!("crt={}", path("crt.pem")))
        .param(&format!("key={}", path("key.pem")))
        .env("NP_RELOAD_INTERVAL", "0")
        .start();
    let info = master.api.get("/info");
    assert_eq!(info["tls"], "2");
    assert_eq!(info["crt"], path("crt.pem"));
    assert_eq!(info["key"], path("key.pem"));
    assert_eq!(presented(&master), first);
    let second = authority.issue_into(&scratch);
    master.process.hang_up();
    until("the new certificate is presented", secs(20), || {
        (presented(&master) == second).then_some(())
    });
    // Half a change leaves the old one in force.
    scratch.write("key.pem", "nonsense");
    master.process.hang_up();
    master.process.remark(&["key.pem"], secs(20));
    assert_eq!(presented(&master), second);
    master.api.get("/info");
}

#[test]
fn tls_2_without_good_files_is_said_once_and_served_as_tls_1() {
    let scratch = Scratch::new();
    let crt = scratch.write("crt.pem", "nonsense").display().to_string();
    let with = |params: &[&str]| {
        let setup = params
            .iter()
            .fold(Setup::default().param("tls=2"), |setup, param| {
                setup.param(param)
            });
        setup.start()
    };
    for params in [
        &["crt=/nowhere/crt.pem", "key=/nowhere/key.pem"][..],
        &[&format!("crt={crt}"), &format!("key={crt}")],
        &[],
    ] {
        let master = with(params);
        assert_eq!(master.api.get("/info")["tls"], "1", "{params:?}");
        master.process.only_line_with(&["ERROR"]);
        // What is in force is what instances inherit.
        let created = master.api.create(SERVER);
        assert!(
            created["url"].as_str().unwrap().contains("&tls=1"),
            "{created}"
        );
    }
}

#[test]
fn port_0_is_picked_by_the_system_and_logged() {
    let scratch = Scratch::new();
    let state = scratch.path().join("state.json");
    let url = format!("master://127.0.0.1:0?state={}", state.display());
    let process = Launch::new([url]).start();
    let line = process.line_with(&["master port open", "address="], secs(20));
    let (_, addr) = line.split_once("address=").unwrap();
    let addr: std::net::SocketAddr = addr.split_whitespace().next().unwrap().parse().unwrap();
    assert_ne!(addr.port(), 0);
    let mut conn = Conn::plain(addr);
    conn.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    conn.answer().unwrap().expect(200);
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let master = Master::start();
    let whole = master.api.request("POST", "/info", "{\"alias\":\"left\"}");
    for cut in (1..whole.len()).step_by(3) {
        let mut conn = master.api.connect();
        conn.send(&whole[..cut]).unwrap();
        drop(conn.socket().flush());
    }
    assert_eq!(master.api.get("/info")["alias"], "");
}
