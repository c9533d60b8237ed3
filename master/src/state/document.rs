//! What the state file holds (`rest.md` §5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::object::{Counters, KEY_INSTANCE, Meta};

/// The format that is written. One with a higher number is not touched.
pub(crate) const VERSION: u64 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// [`VERSION`].
    version: u64,
    /// The master itself.
    #[serde(default)]
    pub(crate) master: Identity,
    /// By the order of their creation.
    #[serde(default, serialize_with = "list", deserialize_with = "numbered")]
    pub(crate) instances: BTreeMap<u64, Arc<Record>>,
    /// What a later version may have added.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// The master's own settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Identity {
    /// 16 hex digits.
    pub(crate) id: Arc<str>,
    /// The API key.
    pub(crate) key: Arc<str>,
    /// Display name.
    pub(crate) alias: Arc<str>,
    /// What a later version may have added.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

/// One instance: everything of its object that is not live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// 8 hex digits.
    pub(crate) id: Arc<str>,
    /// Display name.
    #[serde(default)]
    pub(crate) alias: Arc<str>,
    /// For readers of the file; what counts is the URL.
    #[serde(rename = "type", skip_deserializing)]
    pub(crate) kind: &'static str,
    /// What to run.
    pub(crate) url: Arc<str>,
    /// As `kind`.
    #[serde(skip_deserializing)]
    pub(crate) config: Arc<str>,
    /// Start it when the master starts.
    #[serde(default = "yes")]
    pub(crate) restart: bool,
    /// What front ends attach.
    #[serde(default)]
    pub(crate) meta: Arc<Meta>,
    /// Bytes over all runs.
    #[serde(default, flatten)]
    pub(crate) counters: Counters,
    /// What a later version may have added.
    #[serde(flatten)]
    pub(crate) extra: Map<String, Value>,
}

/// One change of the file.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Another display name of the master.
    Alias(Arc<str>),
    /// Another API key.
    Key(Arc<str>),
    /// A new instance or a changed one.
    Put(u64, Arc<Record>),
    /// An instance less.
    Remove(u64),
    /// Counters of instances, of those that are still there.
    Counters(Vec<(u64, Counters)>),
}

/// Why bytes are not a state file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// A later version of the program wrote it.
    #[error("its version {0} is newer than {VERSION}, the newest that this program knows")]
    Newer(u64),
    /// Half-written, or not ours.
    #[error("{0}")]
    Damaged(String),
}

impl Document {
    /// One without instances.
    pub(crate) fn new(master: Identity) -> Self {
        Self {
            version: VERSION,
            master,
            instances: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// They are no state file, or one of a later version.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        // The version first: what a later one looks like is not known here.
        let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let document: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        document.check_ids().map_err(Unreadable::Damaged)?;
        Ok(document)
    }

    /// The file's bytes.
    pub(crate) fn write(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Makes one change.
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Alias(alias) => self.master.alias = Arc::clone(alias),
            Change::Key(key) => self.master.key = Arc::clone(key),
            Change::Put(order, record) => {
                self.instances.insert(*order, Arc::clone(record));
            }
            Change::Remove(order) => {
                self.instances.remove(order);
            }
            Change::Counters(all) => {
                for (order, counters) in all {
                    if let Some(record) = self.instances.get_mut(order) {
                        Arc::make_mut(record).counters = *counters;
                    }
                }
            }
        }
    }

    fn check_ids(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for record in self.instances.values() {
            let id = &record.id;
            if id.is_empty() || **id == *KEY_INSTANCE || !seen.insert(id) {
                return Err(format!("{id:?} cannot be the id of an instance"));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

const fn yes() -> bool {
    true
}

fn list<S: Serializer>(
    instances: &BTreeMap<u64, Arc<Record>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(instances.values())
}

fn numbered<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<u64, Arc<Record>>, D::Error> {
    let mut records = Vec::<Record>::deserialize(deserializer)?;
    for record in &mut records {
        // Known members that are not read; kept apart they would be written twice.
        record.extra.remove("type");
        record.extra.remove("config");
    }
    Ok((0..).zip(records.into_iter().map(Arc::new)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(
        r#"{"version":1,"master":{"id":"m","key":"k","alias":"a","later":[1]},"instances":["#,
        r#"{"id":"0000000a","alias":"x","type":"","url":"client://:1/h:2","config":"","restart":false,"#,
        r#""meta":{"peer":{"sid":"s","type":"","alias":""},"tags":{"t":"v"}},"#,
        r#""tcprx":1,"tcptx":2,"udprx":3,"udptx":4,"colour":"blue"}],"#,
        r#""zone":{"b":null,"share":1.1148977208740333e-9}}"#,
        "\n"
    );

    #[test]
    fn unknown_members_survive_a_rewrite() {
        let document = Document::read(FILE.as_bytes()).unwrap();
        let written = String::from_utf8(document.write().unwrap()).unwrap();
        assert_eq!(written, FILE);
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let text = r#"{"version":1,"instances":[{"id":"b","url":"u"},{"id":"a","url":"v"}]}"#;
        let document = Document::read(text.as_bytes()).unwrap();
        assert_eq!(document.master, Identity::default());
        let ids: Vec<_> = document.instances.values().map(|r| &*r.id).collect();
        assert_eq!(ids, ["b", "a"]);
        let record = &document.instances[&0];
        assert!(record.restart);
        assert_eq!(record.counters, Counters::default());
    }

    #[test]
    fn later_versions_and_damage_are_told_apart() {
        let later = br#"{"version":2,"instances":"compressed"}"#;
        assert_eq!(Document::read(later), Err(Unreadable::Newer(2)));
        for damaged in [
            "",
            "null",
            "{}",
            "[]",
            r#"{"version":"1"}"#,
            r#"{"version":1,"instances":[{"id":"a"}]}"#,
            r#"{"version":1,"instances":[{"id":"a","url":"u"},{"id":"a","url":"u"}]}"#,
            r#"{"version":1,"instances":[{"id":"********","url":"u"}]}"#,
        ] {
            let read = Document::read(damaged.as_bytes());
            assert!(matches!(read, Err(Unreadable::Damaged(_))), "{damaged}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = FILE.trim_end();
        for end in 0..whole.len() {
            assert!(Document::read(&whole.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn changes_add_up() {
        let mut document = Document::read(FILE.as_bytes()).unwrap();
        let counters = Counters {
            tcprx: 9,
            ..Counters::default()
        };
        let record = Record {
            id: "b".into(),
            url: "u".into(),
            ..Record::default()
        };
        for change in [
            Change::Put(7, Arc::new(record)),
            Change::Counters(vec![(7, counters), (8, counters)]),
            Change::Remove(0),
            Change::Alias("n".into()),
            Change::Key("new".into()),
        ] {
            document.apply(&change);
        }
        assert_eq!(document.instances.len(), 1);
        assert_eq!(document.instances[&7].counters.tcprx, 9);
        assert_eq!(
            (&*document.master.alias, &*document.master.key),
            ("n", "new")
        );
        assert!(
            String::from_utf8(document.write().unwrap())
                .unwrap()
                .contains("later")
        );
    }
}
