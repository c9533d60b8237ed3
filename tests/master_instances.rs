//! What instances are and do: the object of `rest.md` §2, the actions of §3.

use serde_json::{Value, json};

use crate::support::api::id;
use crate::support::kernel::{is_listening, pss, until_listening};
use crate::support::master::{Master, SERVER, Setup, expect_object, server};
use crate::support::optimised;
use crate::support::ports::Port;
use crate::support::sse::Stream;
use crate::support::until::millis;

#[test]
fn a_creation_is_answered_as_the_installer_reads_it() {
    let master = Master::start();
    let body = json!({ "url": SERVER, "alias": "näme \"1\"\n" }).to_string();
    let answer = master.api.call("POST", "/instances", &body).expect(201);
    let text = answer.text();
    let (start, rest) = text.split_at("{\"id\":\"".len());
    assert_eq!(start, "{\"id\":\"");
    let (new, rest) = rest.split_at(8);
    assert!(rest.starts_with('"'), "{text}");
    let hex = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    assert!(new.chars().all(hex), "{text}");
    expect_object(text.trim_end());
    let object = answer.json();
    assert_eq!(object["alias"], "näme \"1\"\n");
    assert_eq!(object["type"], "server");
    assert_eq!(object["status"], "stopped");
    assert_eq!(object["restart"], true);
    assert_eq!(
        object["meta"],
        json!({ "peer": { "sid": "", "type": "", "alias": "" }, "tags": {} })
    );
    for counter in [
        "ping", "pool", "tcps", "udps", "tcprx", "tcptx", "udprx", "udptx",
    ] {
        assert_eq!(object[counter], 0, "{counter}");
    }
    let running = master.api.until_status(new, "running");
    assert_eq!(running["mode"], 1);
}

#[test]
fn the_key_instance_is_the_first_of_the_list() {
    let master = Master::start();
    let ids: Vec<_> = (0..5).map(|_| master.api.create_id(SERVER)).collect();
    let list = master.api.get("/instances");
    let listed: Vec<_> = list.as_array().unwrap().iter().map(id).collect();
    assert_eq!(listed[0], "********");
    assert_eq!(listed[1..], ids, "in the order of creation");
    let key = &list[0];
    assert_eq!(key["url"], Value::from(master.api.key.as_str()));
    assert!(!key["config"].as_str().unwrap().is_empty(), "{key}");
    assert_eq!(key["type"], "");
    assert_eq!(key["status"], "");
    assert_eq!(key["restart"], false);
    let info = master.api.get("/info");
    assert!(info["mid"] == key["config"] || info["mid"] == "", "{info}");
    assert_eq!(master.api.key.len(), 32);
    assert!(
        master
            .api
            .key
            .chars()
            .all(|letter| letter.is_ascii_hexdigit() && !letter.is_uppercase())
    );
}

#[test]
fn the_url_is_kept_and_inherited_parameters_go_to_its_end() {
    for (params, given, kept) in [
        (
            &["log=debug"][..],
            "server://:0/127.0.0.1:0?mode=1&zz=1&max=7",
            "server://:0/127.0.0.1:0?mode=1&zz=1&max=7&log=debug",
        ),
        (
            &["log=debug"],
            "server://:0/127.0.0.1:0",
            "server://:0/127.0.0.1:0?log=debug",
        ),
        (
            &["log=debug"],
            "server://:0/127.0.0.1:0?log=warn",
            "server://:0/127.0.0.1:0?log=warn",
        ),
        (
            &["log=debug"],
            "SERVER://:0/127.0.0.1:0?log=warn&mode=1",
            "server://:0/127.0.0.1:0?log=warn&mode=1",
        ),
        (
            &["log=warn", "tls=1"],
            "server://127.0.0.1:0/127.0.0.1:0?mode=1",
            "server://127.0.0.1:0/127.0.0.1:0?mode=1&log=warn&tls=1",
        ),
        (
            &["log=warn", "tls=1"],
            "server://127.0.0.1:0/127.0.0.1:0?tls=0&mode=1",
            "server://127.0.0.1:0/127.0.0.1:0?tls=0&mode=1&log=warn",
        ),
        (
            &["log=warn", "tls=1"],
            "client://127.0.0.1:0/127.0.0.1:1?mode=1",
            "client://127.0.0.1:0/127.0.0.1:1?mode=1&log=warn",
        ),
    ] {
        let setup = params
            .iter()
            .fold(Setup::default(), |setup, param| setup.param(param));
        let master = setup.start();
        let created = master.api.create(given);
        assert_eq!(created["url"], kept, "{params:?}");
        let config = created["config"].as_str().unwrap();
        let base = kept.split('?').next().unwrap();
        assert!(config.starts_with(base), "{config}");
        for parameter in [
            "log=", "dns=", "mode=", "dial=", "read=", "rate=", "slot=", "proxy=", "block=",
            "notcp=", "noudp=",
        ] {
            assert!(config.contains(parameter), "{parameter}: {config}");
        }
        let read_back = master.api.instance(&id(&created));
        assert_eq!(read_back["url"], kept);
    }
}

#[test]
fn certificates_of_the_master_are_inherited_with_tls_2() {
    let (scratch, authority) = (
        crate::support::scratch::Scratch::new(),
        crate::support::certificates::Authority::new(),
    );
    authority.issue_into(&scratch);
    let (crt, key) = (
        scratch.path().join("crt.pem"),
        scratch.path().join("key.pem"),
    );
    let files = format!("crt={}&key={}", crt.display(), key.display());
    let master = Setup::default()
        .param("log=info")
        .param("tls=2")
        .param(&files)
        .start();
    for (given, inherited) in [
        (SERVER.to_owned(), format!("&log=info&tls=2&{files}")),
        (format!("{SERVER}&tls=2"), format!("&log=info&{files}")),
        (format!("{SERVER}&tls=1"), "&log=info".to_owned()),
        (
            format!("{SERVER}&tls=2&crt=/x"),
            format!("&log=info&key={}", key.display()),
        ),
    ] {
        let created = master.api.create(&given);
        assert_eq!(created["url"], format!("{given}{inherited}"));
    }
}

#[test]
fn addresses_without_a_host_and_unknown_parameters_are_taken() {
    let master = Master::start();
    let port = Port::reserve();
    for url in [
        format!("server://:{}/127.0.0.1:0?tls=1&mode=1", port.number()),
        "server://0.0.0.0:0/127.0.0.1:0?mode=1&future=maybe&x".to_owned(),
        "server://[::1]:0/[::1]:0?mode=1".to_owned(),
        "client://:0/:1?mode=1".to_owned(),
        "client://k%40y@localhost:1/127.0.0.1:2,127.0.0.1:3?mode=2".to_owned(),
    ] {
        let created = master.api.create(&url);
        assert!(
            created["url"].as_str().unwrap().starts_with(&url),
            "{created}"
        );
        let id = id(&created);
        assert_eq!(master.api.until_status(&id, "running")["alias"], "");
    }
}

#[test]
fn a_url_may_have_4096_bytes_and_no_more() {
    let master = Master::start();
    let url = |length: usize| {
        let start = format!("{SERVER}&log=info&filler=");
        let filler = "f".repeat(length - start.len());
        json!({ "url": start + &filler }).to_string()
    };
    master
        .api
        .call("POST", "/instances", &url(4097))
        .expect(400);
    let made = master
        .api
        .call("POST", "/instances", &url(4096))
        .expect(201);
    let path = format!("/instances/{}", id(&made.json()));
    master.api.call("PUT", &path, &url(4097)).expect(400);
    assert_eq!(master.api.list().len(), 1);
}

#[test]
fn what_is_null_or_unknown_in_a_creation_is_not_given() {
    let master = Master::start();
    let body = json!({ "url": SERVER, "alias": null, "id": "deadbeef", "status": 7 }).to_string();
    let made = master
        .api
        .call("POST", "/instances", &body)
        .expect(201)
        .json();
    assert_eq!(made["alias"], "");
    assert_ne!(made["id"], "deadbeef");
}

#[test]
fn alias_restart_and_meta_are_set_without_touching_the_tunnel() {
    let master = Master::start();
    let port = Port::reserve();
    let id = master.api.create_id(&server(&port));
    master.api.until_status(&id, "running");
    let held = crate::support::users::connect(port.addr());
    let patched = master
        .api
        .patch(&id, &json!({ "alias": "new", "restart": false }));
    assert_eq!(
        (&patched["alias"], &patched["restart"]),
        (&"new".into(), &false.into())
    );
    let meta =
        json!({ "peer": { "sid": "s", "type": "1", "alias": "p" }, "tags": { "a": "b", "c": "" } });
    let patched = master.api.patch(&id, &json!({ "meta": meta }));
    assert_eq!(patched["meta"], meta);
    // What is given replaces the whole of it; what is not given stays.
    let patched = master
        .api
        .patch(&id, &json!({ "meta": { "tags": { "d": "e" } } }));
    assert_eq!(
        patched["meta"],
        json!({ "peer": meta["peer"], "tags": { "d": "e" } })
    );
    let patched = master
        .api
        .patch(&id, &json!({ "meta": { "peer": { "sid": "z" } } }));
    assert_eq!(
        patched["meta"]["peer"],
        json!({ "sid": "z", "type": "", "alias": "" })
    );
    assert_eq!(patched["meta"]["tags"], json!({ "d": "e" }));
    let patched = master
        .api
        .patch(&id, &json!({ "action": "reset", "meta": { "tags": {} } }));
    assert_eq!(patched["meta"]["tags"], json!({}));
    assert_eq!(patched["status"], "running");
    let end = crate::support::users::end_of(&held, millis(500));
    assert_eq!(
        end,
        crate::support::users::End::StillOpen,
        "the tunnel was touched"
    );
    assert_eq!(master.api.instance(&id), patched);
}

#[test]
fn metadata_that_would_not_fit_a_block_is_refused() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    let before = master
        .api
        .patch(&id, &json!({ "meta": { "tags": { "a": "b" } } }));
    // 64 tags of 256 bytes each that JSON writes with six letters a byte.
    let tags: serde_json::Map<String, Value> = (0..64)
        .map(|tag| (format!("t{tag}"), "\u{1}".repeat(256).into()))
        .collect();
    let body = json!({ "meta": { "tags": tags }, "alias": "new" }).to_string();
    master
        .api
        .call("PATCH", &format!("/instances/{id}"), &body)
        .expect_error(400, "Instance metadata too large");
    assert_eq!(master.api.instance(&id)["meta"], before["meta"]);
    assert_eq!(master.api.instance(&id)["alias"], "");
}

#[test]
fn stop_start_and_restart_do_what_they_say() {
    let master = Master::start();
    let port = Port::reserve();
    let id = master.api.create_id(&server(&port));
    until_listening(port.addr());
    master.api.act(&id, "stop");
    let stopped = master.api.until_status(&id, "stopped");
    assert!(!is_listening(port.addr()), "stopped but listening");
    assert_eq!((&stopped["ping"], &stopped["pool"]), (&0.into(), &0.into()));
    // Nothing to do: no change.
    assert_eq!(master.api.act(&id, "stop")["status"], "stopped");
    master.api.act(&id, "start");
    master.api.until_status(&id, "running");
    until_listening(port.addr());
    assert_eq!(master.api.act(&id, "start")["status"], "running");
    master.api.act(&id, "restart");
    master.api.until_status(&id, "stopped");
    master.api.until_status(&id, "running");
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    // From `stopped` too it ends started.
    master.api.act(&id, "restart");
    master.api.until_status(&id, "running");
}

#[test]
fn a_restart_shows_stopped_to_who_looks_every_200_ms() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    for round in 0..4 {
        let stream = Stream::open(&master.api);
        stream.first("initial", &id);
        let before = stream.events().len();
        master.api.act(&id, "restart");
        let back = |events: &[crate::support::sse::Event]| {
            let mut updates = events[before..]
                .iter()
                .filter(|event| event.is("update", &id));
            let stopped = updates.find(|event| event.status() == "stopped")?.at;
            let running = updates.find(|event| event.status() == "running")?.at;
            Some(running.duration_since(stopped))
        };
        let shown = stream.until("a restart", back);
        // What the two events took to arrive may differ a little.
        assert!(
            shown >= millis(220),
            "round {round}: stopped for {shown:?} only"
        );
    }
}

#[test]
fn a_put_replaces_the_url_and_starts() {
    let master = Master::start();
    let (old, new) = (Port::reserve(), Port::reserve());
    let id = master.api.create_id(&server(&old));
    until_listening(old.addr());
    master.api.patch(
        &id,
        &json!({ "alias": "kept", "restart": false, "meta": { "tags": { "k": "v" } } }),
    );
    let stream = Stream::open(&master.api);
    let url = server(&new);
    let answer = master.api.put(&id, &url).expect(200).json();
    assert!(
        answer["url"].as_str().unwrap().starts_with(&url),
        "{answer}"
    );
    assert_eq!(answer["id"], Value::from(id.as_str()));
    let update = stream.until("an update with the new URL", |events| {
        let mut updates = events.iter().filter(|event| event.is("update", &id));
        updates
            .find(|event| event.instance["url"] == answer["url"])
            .cloned()
    });
    assert_eq!(update.instance["alias"], "kept");
    let now = master.api.until_status(&id, "running");
    assert_eq!(now["url"], answer["url"]);
    assert_eq!(now["restart"], false);
    assert_eq!(now["meta"]["tags"]["k"], "v");
    until_listening(new.addr());
    assert!(
        !is_listening(old.addr()),
        "the old address is still listened on"
    );
}

#[test]
fn a_put_starts_what_was_stopped_and_may_change_the_type() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    let put = master
        .api
        .put(&id, "client://127.0.0.1:0/127.0.0.1:1?mode=1")
        .expect(200)
        .json();
    assert_eq!(put["type"], "client");
    assert!(
        put["config"].as_str().unwrap().starts_with("client://"),
        "{put}"
    );
    master.api.until_status(&id, "running");
}

#[test]
fn the_same_url_is_a_conflict_in_whatever_order_its_parameters_are() {
    let master = Setup::default().param("log=info").start();
    let created = master
        .api
        .create("server://key@127.0.0.1:0/127.0.0.1:0?mode=1&max=7");
    let id = id(&created);
    master.api.until_status(&id, "running");
    for same in [
        "server://key@127.0.0.1:0/127.0.0.1:0?mode=1&max=7",
        "server://key@127.0.0.1:0/127.0.0.1:0?max=7&mode=1",
        "server://key@127.0.0.1:0/127.0.0.1:0?log=info&max=7&mode=1",
        "SERVER://key@127.0.0.1:0/127.0.0.1:0?mode=1&max=7&log=info",
    ] {
        let answer = master.api.put(&id, same);
        answer.expect_error(409, "Instance URL conflict");
    }
    let after = master.api.instance(&id);
    assert_eq!(after["url"], created["url"]);
    assert_eq!(after["status"], "running");
    master
        .api
        .put(&id, "server://key@127.0.0.1:0/127.0.0.1:0?mode=1&max=8")
        .expect(200);
}

#[test]
fn a_delete_is_complete_and_final() {
    let master = Master::start();
    let port = Port::reserve();
    let id = master.api.create_id(&server(&port));
    until_listening(port.addr());
    master.api.delete(&id);
    assert!(!is_listening(port.addr()), "deleted but listening");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let again = master.api.call(method, &format!("/instances/{id}"), "{}");
        again.expect_error(404, "Instance not found");
    }
    assert!(master.api.list().is_empty());
}

#[test]
fn fifty_instances_are_tasks_and_not_processes() {
    let master = Master::start();
    let pid = master.process.id();
    let before = pss(pid);
    for _ in 0..50 {
        master.api.create(SERVER);
    }
    for instance in master.api.list() {
        master.api.until_status(&id(&instance), "running");
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    assert_eq!(children.unwrap_or_default(), "", "it has children");
    let grown = pss(pid).saturating_sub(before);
    let limit = if optimised() { 16 } else { 48 };
    assert!(grown < limit << 20, "{} MiB for 50", grown >> 20);
}
