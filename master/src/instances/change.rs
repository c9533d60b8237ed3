//! What a caller wants of an instance, checked before any of it is done (`rest.md` §3).

use std::sync::Arc;

use crate::control::{MetaPatch, Patch};
use crate::error::{ALIAS, Error};
use crate::object::{Meta, Object};
use crate::state::Record;

/// The most tags of one instance.
pub(crate) const TAGS: usize = 64;
/// The largest encoded object, in bytes: with a log line it fits an event block.
pub(crate) const OBJECT: usize = 48 * 1024;

/// What is to be done beside the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Stop,
    Restart,
    Reset,
}

/// A patch that passed.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    alias: Option<String>,
    restart: Option<bool>,
    meta: MetaPatch,
    /// What to do after that.
    pub(crate) action: Option<Action>,
}

impl Wish {
    /// Checks everything that does not depend on the instance.
    ///
    /// # Errors
    /// [`Error::Action`], [`Error::Alias`], [`Error::Meta`], [`Error::TooLarge`].
    pub(crate) fn check(patch: Patch) -> Result<Self, Error> {
        let action = match patch.action.as_deref() {
            None | Some("") => None,
            Some("start") => Some(Action::Start),
            Some("stop") => Some(Action::Stop),
            Some("restart") => Some(Action::Restart),
            Some("reset") => Some(Action::Reset),
            Some(other) => return Err(Error::Action(other.to_owned())),
        };
        let alias = patch.alias.filter(|alias| !alias.is_empty());
        if alias.as_ref().is_some_and(|alias| alias.len() > ALIAS) {
            return Err(Error::Alias);
        }
        let meta = patch.meta.unwrap_or_default();
        check_meta(&meta)?;
        Ok(Self {
            alias,
            restart: patch.restart,
            meta,
            action,
        })
    }

    /// The configuration as it is to be.
    pub(crate) fn applied_to(&self, record: &Record) -> Record {
        let mut next = record.clone();
        if let Some(alias) = self.alias.as_deref().filter(|alias| **alias != *next.alias) {
            next.alias = alias.into();
        }
        next.restart = self.restart.unwrap_or(next.restart);
        let peer = self
            .meta
            .peer
            .as_ref()
            .filter(|peer| **peer != next.meta.peer);
        let tags = self
            .meta
            .tags
            .as_ref()
            .filter(|tags| **tags != next.meta.tags);
        if peer.is_some() || tags.is_some() {
            next.meta = Arc::new(Meta {
                peer: peer.unwrap_or(&next.meta.peer).clone(),
                tags: tags.unwrap_or(&next.meta.tags).clone(),
            });
        }
        next
    }
}

fn check_meta(meta: &MetaPatch) -> Result<(), Error> {
    let mut texts = Vec::new();
    if let Some(peer) = &meta.peer {
        texts.extend([
            ("peer.sid", &peer.sid),
            ("peer.type", &peer.kind),
            ("peer.alias", &peer.alias),
        ]);
    }
    if let Some(tags) = &meta.tags {
        if tags.len() > TAGS {
            return Err(Error::TooLarge);
        }
        let tags = tags.iter();
        texts.extend(tags.flat_map(|(key, value)| [("tag key", key), ("tag value", value)]));
    }
    match texts.iter().find(|(_, text)| text.len() > ALIAS) {
        Some((name, _)) => Err(Error::Meta(name)),
        None => Ok(()),
    }
}

/// Checks that an object fits an event block.
///
/// # Errors
/// [`Error::TooLarge`].
pub(crate) fn check_size(object: &Object) -> Result<(), Error> {
    let encoded = serde_json::to_vec(object).map_err(|_| Error::TooLarge)?;
    if encoded.len() > OBJECT {
        return Err(Error::TooLarge);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::object::Peer;

    fn patch(text: &str) -> Patch {
        serde_json::from_str(text).unwrap()
    }

    fn applied(text: &str, record: &Record) -> Record {
        Wish::check(patch(text)).unwrap().applied_to(record)
    }

    #[test]
    fn everything_is_checked_first() {
        let long = "x".repeat(257);
        let table = [
            (
                r#"{"action":"frobnicate","alias":"LONG"}"#,
                "Invalid action: frobnicate",
            ),
            (
                r#"{"alias":"LONG"}"#,
                "Instance alias exceeds maximum length 256",
            ),
            (
                r#"{"meta":{"peer":{"sid":"LONG"}}}"#,
                "Meta peer.sid exceeds maximum length 256",
            ),
            (
                r#"{"meta":{"peer":{"type":"LONG"}}}"#,
                "Meta peer.type exceeds maximum length 256",
            ),
            (
                r#"{"meta":{"peer":{"alias":"LONG"}}}"#,
                "Meta peer.alias exceeds maximum length 256",
            ),
            (
                r#"{"meta":{"tags":{"LONG":""}}}"#,
                "Meta tag key exceeds maximum length 256",
            ),
            (
                r#"{"meta":{"tags":{"k":"LONG"}}}"#,
                "Meta tag value exceeds maximum length 256",
            ),
        ];
        for (text, expected) in table {
            let error = Wish::check(patch(&text.replace("LONG", &long))).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let tags: BTreeMap<_, _> = (0..=TAGS).map(|n| (n.to_string(), String::new())).collect();
        let meta = MetaPatch {
            tags: Some(tags),
            peer: None,
        };
        let many = Patch {
            meta: Some(meta),
            ..Patch::default()
        };
        assert_eq!(Wish::check(many).unwrap_err(), Error::TooLarge);
    }

    #[test]
    fn what_is_not_given_stays() {
        let record = Record {
            alias: "a".into(),
            restart: true,
            ..Record::default()
        };
        for nothing in [
            "{}",
            r#"{"alias":null,"restart":null,"action":null,"meta":null,"unknown":1}"#,
            r#"{"alias":"","action":""}"#,
            r#"{"alias":"a","restart":true,"meta":{"peer":null,"tags":{}}}"#,
            r#"{"action":"start"}"#,
        ] {
            assert_eq!(applied(nothing, &record), record, "{nothing}");
        }
    }

    #[test]
    fn peer_and_tags_are_replaced_as_a_whole() {
        let one = applied(
            r#"{"meta":{"peer":{"sid":"s","type":"1"},"tags":{"k":"v"}}}"#,
            &Record::default(),
        );
        let two = applied(r#"{"meta":{"peer":{"alias":"p","sid":null}}}"#, &one);
        let peer = Peer {
            alias: "p".to_owned(),
            ..Peer::default()
        };
        assert_eq!(two.meta.peer, peer);
        assert_eq!(two.meta.tags, one.meta.tags);
        let three = applied(r#"{"restart":false,"alias":"n","meta":{"tags":{}}}"#, &two);
        assert!(three.meta.tags.is_empty() && !three.restart);
        assert_eq!((&three.meta.peer, &*three.alias), (&peer, "n"));
    }
}
