//! What the master keeps: everything it answered for, whatever kills it (`rest.md` §5).

use serde_json::{Value, json};

use crate::support::api::{Api, PATIENCE, id};
use crate::support::kernel::{is_listening, until_listening};
use crate::support::master::{Master, SERVER, STATE, files, mode, read_json, refuses, server};
use crate::support::ports::Port;
use crate::support::until::until;

/// What must survive of an instance.
fn lasting(object: &Value) -> Value {
    let members = ["id", "alias", "type", "url", "config", "restart", "meta"];
    members
        .iter()
        .map(|name| ((*name).to_owned(), object[*name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn all_lasting(api: &Api) -> Vec<Value> {
    api.list().iter().map(lasting).collect()
}

/// One call that changes something.
type Change<'a> = &'a dyn Fn(&Api);

#[test]
fn every_change_that_was_answered_survives_a_kill() {
    let mut master = Master::start();
    let port = Port::reserve();
    // Created: killed at once after the 201.
    let first = master.api.create_id(SERVER);
    master.kill_and_restart();
    assert_eq!(master.api.list().len(), 1, "a lost 201");
    master.api.until_status(&first, "running");
    let body = json!({ "url": server(&port), "alias": "second" }).to_string();
    let second = id(&master
        .api
        .call("POST", "/instances", &body)
        .expect(201)
        .json());
    master.kill_and_restart();
    until_listening(port.addr());
    let changes: [(&str, Change<'_>); 9] = [
        ("alias", &|api| {
            drop(api.patch(&second, &json!({ "alias": "renamed" })))
        }),
        ("meta", &|api| {
            drop(api.patch(
                &second,
                &json!({ "meta": { "peer": { "sid": "s" }, "tags": { "a": "b" } } }),
            ))
        }),
        ("tags", &|api| {
            drop(api.patch(&second, &json!({ "meta": { "tags": { "c": "d" } } })))
        }),
        ("restart", &|api| {
            drop(api.patch(&first, &json!({ "restart": false })))
        }),
        ("put", &|api| {
            drop(
                api.put(&first, "client://127.0.0.1:0/127.0.0.1:1?mode=1")
                    .expect(200),
            )
        }),
        ("several", &|api| {
            drop(api.patch(
                &first,
                &json!({ "alias": "x", "restart": true, "meta": { "tags": {} } }),
            ))
        }),
        ("stop", &|api| drop(api.act(&second, "stop"))),
        ("start", &|api| drop(api.act(&second, "start"))),
        ("reset", &|api| drop(api.act(&second, "reset"))),
    ];
    for (name, change) in changes {
        change(&master.api);
        let before = all_lasting(&master.api);
        master.kill_and_restart();
        assert_eq!(all_lasting(&master.api), before, "after {name}");
    }
    assert_eq!(
        master.api.instance(&second)["meta"]["tags"],
        json!({ "c": "d" })
    );
    assert_eq!(master.api.instance(&second)["meta"]["peer"]["sid"], "s");
    // Deleted: no ghost.
    master.api.delete(&first);
    master.kill_and_restart();
    assert_eq!(master.api.list().len(), 1, "a ghost");
    master.api.until_status(&second, "running");
    // The master's own.
    master
        .api
        .call("POST", "/info", "{\"alias\":\"home\"}")
        .expect(200);
    master.kill_and_restart();
    assert_eq!(master.api.get("/info")["alias"], "home");
    let (old, mid) = (
        master.api.clone(),
        master.api.instance("********")["config"].clone(),
    );
    let new = master.api.act("********", "restart")["url"].clone();
    master.kill_and_restart();
    assert_eq!(master.api.key, new.as_str().unwrap());
    old.call("GET", "/info", "").expect(401);
    assert_eq!(
        master.api.instance("********")["config"],
        mid,
        "the id of the master changed"
    );
}

#[test]
fn nothing_is_lost_between_hundreds_of_creations_and_a_kill() {
    for round in 0..3 {
        let mut master = Master::start();
        let api = master.api.clone();
        let answered = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let api = &api;
                    scope.spawn(move || {
                        let body = json!({ "url": SERVER }).to_string();
                        let mut made = Vec::new();
                        while let Some(answer) = api.try_call("POST", "/instances", &body) {
                            made.push(id(&answer.expect(201).json()));
                        }
                        made
                    })
                })
                .collect();
            until("some instances", PATIENCE, || {
                (api.try_call("GET", "/instances", "")?
                    .json()
                    .as_array()?
                    .len()
                    > 20 + 10 * round)
                    .then_some(())
            });
            master.process.kill();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert!(answered.len() > 10);
        master.restart();
        let listed: Vec<_> = master.api.list().iter().map(id).collect();
        for id in &answered {
            assert!(
                listed.contains(id),
                "round {round}: {id} was answered and is lost"
            );
        }
        // One per worker may have been on disk and not yet answered.
        assert!(
            listed.len() <= answered.len() + 4,
            "{} of {}",
            listed.len(),
            answered.len()
        );
    }
}

#[test]
fn what_starts_is_decided_by_the_policy_and_never_by_the_last_status() {
    let mut master = Master::start();
    let (port, other) = (Port::reserve(), Port::reserve());
    let started = master.api.create_id(&server(&port));
    let stays = master.api.create_id(&server(&other));
    until_listening(other.addr());
    master.api.act(&started, "stop");
    master.api.until_status(&started, "stopped");
    master.api.patch(&stays, &json!({ "restart": false }));
    master.stop_and_restart();
    master.api.until_status(&started, "running");
    assert_eq!(master.api.instance(&stays)["status"], "stopped");
    assert!(!is_listening(other.addr()));
    let saved = master.saved().to_string();
    assert!(
        !saved.contains("running") && !saved.contains("stopped"),
        "{saved}"
    );
    master.api.act(&stays, "start");
    master.api.until_status(&stays, "running");
}

#[test]
fn the_file_is_as_documented_and_private() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.patch(&id, &json!({ "alias": "x" }));
    let saved = master.saved();
    assert_eq!(saved["version"], 1);
    assert_eq!(saved["master"]["key"], master.api.key.as_str());
    assert!(
        saved["master"]["id"].is_string() && saved["master"]["alias"].is_string(),
        "{saved}"
    );
    let instance = &saved["instances"][0];
    for member in ["id", "alias", "url", "restart", "meta"] {
        assert!(!instance[member].is_null(), "{member}: {saved}");
    }
    for (name, _) in files(master.scratch.path()) {
        let path = master.scratch.path().join(&name);
        assert_eq!(mode(&path) & 0o077, 0, "{name} can be read by others");
    }
    assert_eq!(mode(&master.state()), 0o600);
    let backup = read_json(&master.scratch.path().join("nodepass.json.bak")).expect("a .bak");
    assert_eq!(
        backup["instances"][0]["alias"], "",
        "the previous generation: {backup}"
    );
    // Nothing temporary stays.
    let names: Vec<_> = files(master.scratch.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(names.len() <= 3, "{names:?}");
}

#[test]
fn what_changes_nothing_writes_nothing() {
    use std::os::unix::fs::MetadataExt;
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.patch(&id, &json!({ "alias": "x" }));
    master.api.until_status(&id, "running");
    master.api.act(&id, "stop");
    master.api.until_status(&id, "stopped");
    // Each rewrite is another file.
    let file = || std::fs::metadata(master.state()).unwrap().ino();
    let before = file();
    for patch in [
        json!({}),
        json!({ "alias": "x" }),
        json!({ "alias": "", "restart": true }),
        json!({ "action": "reset" }),
        json!({ "action": "stop" }),
        json!({ "meta": { "tags": {} } }),
    ] {
        master.api.patch(&id, &patch);
    }
    master.api.put(&id, SERVER).expect(409);
    assert_eq!(file(), before, "it was written");
    master.api.patch(&id, &json!({ "alias": "y" }));
    assert_ne!(file(), before);
}

#[test]
fn unknown_members_survive_a_rewrite() {
    let mut master = Master::start();
    let id = master.api.create_id(SERVER);
    master.stop();
    let mut saved = master.saved();
    saved["future"] = json!({ "a": [1, 2.5, null] });
    saved["master"]["colour"] = json!("blue");
    saved["instances"][0]["owner"] = json!({ "name": "someone" });
    std::fs::write(master.state(), saved.to_string()).unwrap();
    master.restart();
    master.api.patch(&id, &json!({ "alias": "rewritten" }));
    master.api.create(SERVER);
    master.stop_and_restart();
    let now = master.saved();
    assert_eq!(now["future"], saved["future"]);
    assert_eq!(now["master"]["colour"], "blue");
    assert_eq!(now["instances"][0]["owner"], saved["instances"][0]["owner"]);
    assert_eq!(now["instances"][0]["alias"], "rewritten");
}

#[test]
fn a_damaged_file_is_put_aside_and_the_one_before_is_used() {
    let whole = |saved: &[u8]| saved.len();
    for (name, cut) in [("half", 2), ("nothing", usize::MAX), ("garbage", 0)] {
        let mut master = Master::start();
        let id = master.api.create_id(SERVER);
        master.api.patch(&id, &json!({ "alias": "in the backup" }));
        master.api.patch(&id, &json!({ "alias": "lost" }));
        master.process.kill();
        let saved = std::fs::read(master.state()).unwrap();
        let damaged = match cut {
            0 => b"\xff\xfe not json".to_vec(),
            cut => saved[..whole(&saved) / cut].to_vec(),
        };
        std::fs::write(master.state(), &damaged).unwrap();
        master.restart();
        let alias = master.api.instance(&id)["alias"].clone();
        assert_eq!(alias, "in the backup", "{name}");
        let aside = files(master.scratch.path());
        let aside: Vec<_> = aside
            .iter()
            .filter(|(name, _)| name.starts_with("nodepass.json.corrupt-"))
            .collect();
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(aside[0].1, damaged, "{name}");
        master.process.only_line_with(&["WARN", "corrupt"]);
        master.api.until_status(&id, "running");
        // And from then on it is as ever.
        master.api.patch(&id, &json!({ "alias": "after" }));
        master.kill_and_restart();
        assert_eq!(master.api.instance(&id)["alias"], "after");
    }
}

#[test]
fn with_both_files_damaged_it_refuses_and_touches_nothing() {
    let mut master = Master::start();
    master.api.create(SERVER);
    master.api.create(SERVER);
    master.process.kill();
    master.scratch.write(STATE, "{\"version\":1,\"mas");
    master.scratch.write("nodepass.json.bak", "");
    let before = files(master.scratch.path());
    refuses(&master.launch.finish(), &[STATE]);
    let after: Vec<_> = files(master.scratch.path());
    for (name, content) in &before {
        let kept = after.iter().any(|(other, same)| {
            same == content && (other == name || other.starts_with(name.as_str()))
        });
        assert!(kept || name.ends_with("lock"), "{name} was changed");
    }
    refuses(&master.launch.finish(), &[]);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_not_touched() {
    let mut master = Master::start();
    master.stop();
    let mut saved = master.saved();
    saved["version"] = json!(2);
    std::fs::write(master.state(), saved.to_string()).unwrap();
    refuses(&master.launch.finish(), &[STATE, "version"]);
    assert_eq!(master.saved(), saved);
}

#[test]
fn a_missing_key_is_made_anew_and_never_none() {
    for key in [Value::Null, json!("")] {
        let mut master = Master::start();
        let (old, id) = (master.api.clone(), master.api.create_id(SERVER));
        master.stop();
        let mut saved = master.saved();
        match &key {
            Value::Null => drop(saved["master"].as_object_mut().unwrap().remove("key")),
            empty => saved["master"]["key"] = empty.clone(),
        }
        std::fs::write(master.state(), saved.to_string()).unwrap();
        master.restart();
        assert_eq!(master.api.key.len(), 32);
        assert_ne!(master.api.key, old.key);
        old.call("GET", "/info", "").expect(401);
        let mut empty = old.clone();
        empty.key = String::new();
        empty.call("GET", "/info", "").expect(401);
        assert_eq!(
            master.api.instance(&id)["url"]
                .as_str()
                .map(|url| url.starts_with(SERVER)),
            Some(true)
        );
    }
}

#[test]
fn four_thousand_and_ninety_six_instances_and_no_more() {
    let mut master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.patch(&id, &json!({ "restart": false }));
    master.stop();
    let mut saved = master.saved();
    let one = saved["instances"][0].clone();
    let copies = (0..4095).map(|number| {
        let mut copy = one.clone();
        copy["id"] = json!(format!("{number:08x}"));
        copy
    });
    saved["instances"] = copies.collect();
    std::fs::write(master.state(), saved.to_string()).unwrap();
    master.restart();
    assert_eq!(master.api.list().len(), 4095);
    let last = master.api.create_id(SERVER);
    let body = json!({ "url": SERVER }).to_string();
    master.api.call("POST", "/instances", &body).expect(409);
    master.api.delete(&last);
    master.api.create(SERVER);
}
