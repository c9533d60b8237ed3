mod changes;
mod keeping;
mod races;
mod streams;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use smol::future::{poll_once, yield_now};

use super::*;
use crate::events::{Event, Kind};
use crate::object::Status;
use crate::testing::{
    Directory, Manners, Master, master, next, run, try_master, until, url, with_master,
};

fn action(action: &str) -> Patch {
    Patch {
        action: Some(action.to_owned()),
        ..Patch::default()
    }
}

fn alias(alias: &str) -> Patch {
    Patch {
        alias: Some(alias.to_owned()),
        ..Patch::default()
    }
}

fn replace(url: &str) -> Replace {
    Replace {
        url: Some(url.to_owned()),
    }
}

fn create(url: Option<&str>, alias: Option<&str>) -> Create {
    Create {
        url: url.map(str::to_owned),
        alias: alias.map(str::to_owned),
    }
}

fn seen(event: &Event) -> (Kind, Status, &str) {
    let instance = event.instance.as_ref().unwrap();
    (event.kind, instance.status, &event.logs)
}
