//! Many hands on the same instances at once: nothing doubled, nothing stuck, nothing lost.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::api::{Api, PATIENCE, id};
use crate::support::kernel::{is_listening, until_listening};
use crate::support::master::{Master, SERVER, server};
use crate::support::peers::{Target, discard};
use crate::support::ports::Port;
use crate::support::sse::Stream;
use crate::support::until::{poll, promptly, secs, until};
use crate::support::users;

/// Listening sockets on the port of `addr` in this machine.
fn listeners(port: &Port) -> usize {
    let suffix = format!(":{:04X}", port.number());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = |row: &&str| {
        let mut fields = row.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A")
    };
    table.lines().skip(1).filter(listening).count()
}

/// All at once, each on a connection of its own.
fn all_at_once<T: Send>(count: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let gate = std::sync::Barrier::new(count);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .map(|number| {
                let (gate, act) = (&gate, &act);
                scope.spawn(move || {
                    gate.wait();
                    act(number)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    })
}

/// The status comes to rest, and what listens fits it.
fn comes_to_rest(api: &Api, id: &str, port: &Port) -> Value {
    let mut same = 0;
    let mut last = Value::Null;
    until("the status rests", PATIENCE, || {
        let now = api.instance(id);
        same = if now["status"] == last["status"] {
            same + 1
        } else {
            0
        };
        last = now;
        // Longer than a restart shows `stopped`.
        (same > 35).then_some(())
    });
    let listening = listeners(port);
    match last["status"].as_str() {
        Some("running") => assert_eq!(listening, 1, "{last}"),
        Some("stopped") => assert_eq!(listening, 0, "{last}"),
        status => panic!("{status:?}: {last}"),
    }
    last
}

#[test]
fn twenty_four_actions_on_one_instance() {
    let master = Master::start();
    let port = Port::reserve();
    let id = master.api.create_id(&server(&port));
    until_listening(port.addr());
    let stream = Stream::open(&master.api);
    stream.first("initial", &id);
    for round in 0..2 {
        let statuses = all_at_once(24, |number| {
            let action = ["start", "stop", "restart", "reset", "start", "restart"][number % 6];
            let answer = master.api.call(
                "PATCH",
                &format!("/instances/{id}"),
                &json!({ "action": action }).to_string(),
            );
            assert!(listeners(&port) <= 1, "a second listener");
            answer.expect(200).json()["status"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        let known = ["running", "stopped", "error"];
        assert!(
            statuses
                .iter()
                .all(|status| known.contains(&status.as_str())),
            "{statuses:?}"
        );
        comes_to_rest(&master.api, &id, &port);
        // It is not stuck: it still does what it is told.
        master.api.act(&id, "stop");
        master.api.until_status(&id, "stopped");
        until("nothing listens", PATIENCE, || {
            (!is_listening(port.addr())).then_some(())
        });
        master.api.act(&id, "start");
        master.api.until_status(&id, "running");
        assert_eq!(listeners(&port), 1, "round {round}");
    }
    // It never failed, which two listeners on one port would have made it.
    assert!(
        !stream
            .about(&id)
            .iter()
            .any(|event| event.status() == "error")
    );
}

#[test]
fn a_hundred_creations_at_once() {
    let mut master = Master::start();
    let stream = Stream::open(&master.api);
    let made = all_at_once(100, |_| master.api.create_id(SERVER));
    let ids: BTreeSet<_> = made.iter().cloned().collect();
    assert_eq!(ids.len(), 100, "an id was given twice");
    let listed: BTreeSet<_> = master.api.list().iter().map(id).collect();
    assert_eq!(listed, ids);
    for id in &ids {
        master.api.until_status(id, "running");
        stream.first("create", id);
    }
    master.kill_and_restart();
    let listed: BTreeSet<_> = master.api.list().iter().map(id).collect();
    assert_eq!(listed, ids, "after a kill");
    all_at_once(10, |number| {
        for id in made.iter().skip(number).step_by(10) {
            master.api.delete(id);
        }
    });
    assert!(master.api.list().is_empty());
}

#[test]
fn a_delete_during_a_restart_is_final() {
    let master = Master::start();
    for round in 0..3 {
        let port = Port::reserve();
        let id = master.api.create_id(&server(&port));
        until_listening(port.addr());
        let stream = Stream::open(&master.api);
        stream.first("initial", &id);
        let path = format!("/instances/{id}");
        let answers = all_at_once(6, |number| match number {
            0 => master.api.call("DELETE", &path, "").status,
            1 => {
                master
                    .api
                    .call(
                        "PUT",
                        &path,
                        &json!({ "url": server(&port) + "&max=9" }).to_string(),
                    )
                    .status
            }
            _ => {
                master
                    .api
                    .call("PATCH", &path, "{\"action\":\"restart\"}")
                    .status
            }
        });
        assert_eq!(answers[0], 204, "round {round}");
        assert!(
            answers[1..]
                .iter()
                .all(|status| matches!(status, 200 | 404)),
            "{answers:?}"
        );
        stream.first("delete", &id);
        // Longer than the restarts would take.
        let back = poll(secs(1), || {
            let found = master.api.call("GET", &path, "").status == 200;
            (found || is_listening(port.addr())).then_some(())
        });
        assert!(back.is_none(), "round {round}: it came back");
        let events = stream.about(&id);
        assert_eq!(
            events.last().unwrap().kind,
            "delete",
            "round {round}: {events:?}"
        );
    }
    assert!(master.api.list().is_empty());
}

#[test]
fn a_put_during_a_start_wins() {
    let master = Master::start();
    let id = master.api.create_id(SERVER);
    for round in 0..3 {
        let (old, new) = (Port::reserve(), Port::reserve());
        master.api.put(&id, &server(&old)).expect(200);
        master.api.act(&id, "stop");
        master.api.until_status(&id, "stopped");
        all_at_once(5, |number| match number {
            0 => master.api.put(&id, &server(&new)).expect(200).status,
            _ => {
                master
                    .api
                    .call(
                        "PATCH",
                        &format!("/instances/{id}"),
                        "{\"action\":\"start\"}",
                    )
                    .expect(200)
                    .status
            }
        });
        until_listening(new.addr());
        master.api.until_status(&id, "running");
        let rest = comes_to_rest(&master.api, &id, &new);
        assert!(
            rest["url"]
                .as_str()
                .unwrap()
                .contains(&new.addr().to_string()),
            "round {round}: {rest}"
        );
        assert_eq!(
            listeners(&old),
            0,
            "round {round}: the old address is listened on"
        );
    }
}

#[test]
fn changes_of_many_hands_all_arrive() {
    let mut master = Master::start();
    let id = master.api.create_id(SERVER);
    master.api.until_status(&id, "running");
    let fields = ["alias", "meta", "restart", "url"];
    all_at_once(16, |number| {
        let body = match fields[number % 4] {
            "alias" => json!({ "alias": "final" }),
            "meta" => json!({ "meta": { "tags": { "final": "yes" } } }),
            "restart" => json!({ "restart": false }),
            _ => json!({ "meta": { "peer": { "sid": "final" } } }),
        };
        master.api.patch(&id, &body);
    });
    let now = master.api.instance(&id);
    let wanted =
        json!({ "peer": { "sid": "final", "type": "", "alias": "" }, "tags": { "final": "yes" } });
    assert_eq!(
        (&now["alias"], &now["restart"], &now["meta"]),
        (&"final".into(), &false.into(), &wanted)
    );
    master.kill_and_restart();
    assert_eq!(master.api.instance(&id)["meta"], wanted);
    assert_eq!(master.api.instance(&id)["status"], "stopped");
}

/// A client alone with a user who never leaves: to stop it takes as long as it may.
fn reluctant(api: &Api, target: &Target) -> (String, Port, TcpStream) {
    let port = Port::reserve();
    let url = format!("client://{}/{}?mode=1", port.addr(), target.addr());
    let id = api.create_id(&url);
    until_listening(port.addr());
    let user = users::connect(port.addr());
    api.until(&id, "a relay runs", |found| found["tcps"] == 1);
    (id, port, user)
}

#[test]
fn a_put_and_a_delete_take_less_than_4_s_whoever_is_connected() {
    let master = Master::start();
    let target = Target::start(discard);
    promptly("PUT with a user", secs(4), || {
        let (id, port, _user) = reluctant(&master.api, &target);
        let url = format!("client://{}/{}?mode=1&max=7", port.addr(), target.addr());
        let began = Instant::now();
        master.api.put(&id, &url).expect(200);
        began.elapsed()
    });
    promptly("DELETE with a user", secs(4), || {
        let (id, port, _user) = reluctant(&master.api, &target);
        let began = Instant::now();
        master.api.delete(&id);
        assert!(!is_listening(port.addr()), "deleted but listening");
        began.elapsed()
    });
}

#[test]
fn one_slow_instance_delays_no_other() {
    let master = Master::start();
    let target = Target::start(discard);
    let (slow, port, _user) = reluctant(&master.api, &target);
    let other = master.api.create_id(SERVER);
    master.api.until_status(&other, "running");
    master.api.act(&slow, "stop");
    let began = Instant::now();
    for _ in 0..2 {
        master.api.act(&other, "stop");
        master.api.until_status(&other, "stopped");
        master.api.act(&other, "start");
        master.api.until_status(&other, "running");
    }
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    master.api.delete(&slow);
    assert!(!is_listening(port.addr()));
}
