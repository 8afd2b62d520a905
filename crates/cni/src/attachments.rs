//! The attachments that must survive a GC.

use crate::config::ConfError;
use crate::request::AttachmentId;
use serde_json::{Value, json};

/// A set of attachments, as `cni.dev/valid-attachments` lists them.
///
/// A node can have thousands, so their text stays where it is, in the
/// configuration: an attachment takes 16 bytes. As a tree of JSON values it
/// would take 900.
#[derive(Debug, Clone, Copy)]
pub struct Attachments<'n> {
    config: &'n [u8],
    list: &'n List,
}

/// Where attachments stand in a configuration; sorted by what stands there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct List {
    entries: Vec<[Span; 2]>,
    /// Text that the configuration writes in another way, with escapes.
    unescaped: Vec<u8>,
}

/// A piece of the configuration or, behind its end, of the unescaped text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

impl<'n> Attachments<'n> {
    /// Is `attachment` one of them?
    pub fn contains(&self, attachment: &AttachmentId) -> bool {
        let wanted = [attachment.container_id.as_bytes(), attachment.ifname.as_bytes()];
        self.list.entries.binary_search_by(|entry| self.names(entry).cmp(&wanted)).is_ok()
    }

    /// Does one of them belong to this container?
    pub fn has_container(&self, container_id: &str) -> bool {
        let is = |entry: &[Span; 2]| self.names(entry)[0].cmp(container_id.as_bytes());
        self.list.entries.binary_search_by(is).is_ok()
    }

    /// All of them, by container and interface.
    pub fn iter(&self) -> impl Iterator<Item = AttachmentId> {
        self.list.entries.iter().map(|entry| {
            let [container_id, ifname] =
                self.names(entry).map(|name| String::from_utf8_lossy(name).into_owned());
            AttachmentId { container_id, ifname }
        })
    }

    /// As a configuration lists them.
    pub fn to_json(&self) -> Value {
        let one = |id: AttachmentId| json!({"containerID": id.container_id, "ifname": id.ifname});
        self.iter().map(one).collect()
    }

    fn names(&self, entry: &[Span; 2]) -> [&'n [u8]; 2] {
        self.list.names(self.config, entry)
    }
}

impl List {
    fn names<'a>(&'a self, config: &'a [u8], entry: &[Span; 2]) -> [&'a [u8]; 2] {
        entry.map(|Span { start, length }| {
            let (start, length) = (start as usize, length as usize);
            match start.checked_sub(config.len()) {
                None => &config[start..start + length],
                Some(start) => &self.unescaped[start..start + length],
            }
        })
    }
}

/// Collects attachments in the order in which a configuration lists them.
pub(crate) struct Collector<'c> {
    config: &'c [u8],
    /// Up to where its text has been used; none where what was read is not its
    /// text, but one without invalid UTF-8.
    at: Option<usize>,
    list: List,
}

impl<'c> Collector<'c> {
    pub(crate) fn new(config: &'c [u8]) -> Collector<'c> {
        let at = str::from_utf8(config).is_ok().then_some(0);
        Collector { config, at, list: List::default() }
    }

    pub(crate) fn push(&mut self, attachment: &AttachmentId) {
        let last = self.list.entries.last().copied().unwrap_or_default();
        let container = self.place(&attachment.container_id, last[0]);
        let ifname = self.place(&attachment.ifname, last[1]);
        self.list.entries.push([container, ifname]);
    }

    /// Where `name` stands: where `last` does, or further on. So all of them
    /// together cost one pass.
    fn place(&mut self, name: &str, last: Span) -> Span {
        /// An attachment with much white space.
        const NEAR: usize = 4096;
        let name = name.as_bytes();
        if name.is_empty() {
            return Span::default();
        }
        if self.list.names(self.config, &[last, last])[0] == name {
            return last;
        }
        let found = self.at.and_then(|at| {
            let near = &self.config[at..self.config.len().min(at + NEAR + name.len())];
            Some(at + near.windows(name.len()).position(|text| text == name)?)
        });
        let start = match found {
            Some(start) => {
                self.at = Some(start + name.len());
                start
            }
            None => {
                self.list.unescaped.extend(name);
                self.config.len() + self.list.unescaped.len() - name.len()
            }
        };
        // A configuration has at most some MiB.
        Span { start: start as u32, length: name.len() as u32 }
    }

    pub(crate) fn finish(self) -> List {
        let Collector { config, mut list, .. } = self;
        let mut entries = std::mem::take(&mut list.entries);
        entries.sort_unstable_by(|a, b| list.names(config, a).cmp(&list.names(config, b)));
        List { entries, ..list }
    }
}

/// What a configuration says under the two names of the list. They are kept
/// out of the document itself.
#[derive(Default, Clone)]
pub(crate) struct Listed([Option<Result<List, ConfError>>; 2]);

impl Listed {
    /// By falling importance; the runtime writes both, for plugins of any age.
    const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

    /// The place for the value of `key`, if `key` is one of the names.
    pub(crate) fn slot(&mut self, key: &str) -> Option<&mut Option<Result<List, ConfError>>> {
        let at = Listed::KEYS.iter().position(|name| key.eq_ignore_ascii_case(name))?;
        Some(&mut self.0[at])
    }

    /// The one that counts in `config`, or what is wrong with it under its key.
    pub(crate) fn read<'n>(
        &'n self,
        config: &'n [u8],
    ) -> Result<Option<Attachments<'n>>, (&'static str, &'n ConfError)> {
        match Listed::KEYS.into_iter().zip(&self.0).find(|(_, list)| list.is_some()) {
            Some((_, Some(Ok(list)))) => Ok(Some(Attachments { config, list })),
            Some((key, Some(Err(error)))) => Err((key, error)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Network;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    fn network(config: impl Into<Vec<u8>>) -> Network {
        Network::new(config.into(), "".into(), &[]).expect("valid")
    }

    #[test]
    fn names_do_not_run_into_each_other() {
        let network = network(
            r#"{"name":"n","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"},
            {"ifname":"c","containerID":"ab"},{"containerID":"a","ifname":"eth1"},
            {"containerID":"","ifname":""},{"containerID":"\u0061\u0062","ifname":"\u00e9"}]}"#,
        );
        let set = network.valid_attachments().expect("valid").expect("given");
        assert!(set.contains(&id("ab", "c")) && set.contains(&id("b", "eth0")));
        assert!(set.contains(&id("ab", "é")) && set.contains(&id("", "")));
        assert!(!set.contains(&id("a", "bc")) && !set.contains(&id("abc", "")));
        assert!(set.has_container("a") && !set.has_container("abc"));
        assert_eq!(set.to_json()[1], json!({"containerID": "a", "ifname": "eth1"}));
    }

    #[test]
    fn invalid_utf8_elsewhere_does_not_shift_them() {
        let mut config = br#"{"name":"n","x":""#.to_vec();
        config.extend([0xff; 9]);
        config.extend(br#"","cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]}"#);
        let network = network(config);
        let set = network.valid_attachments().expect("valid").expect("given");
        assert_eq!(set.iter().collect::<Vec<_>>(), [id("c", "eth0")]);
    }

    proptest! {
        #[test]
        fn what_was_listed_is_in_the_set(
            names in prop::collection::vec(("[a-c\"\\\\é]{0,3}", "[a-c\n]{0,2}"), 0..20),
            gap in 0..6000usize,
        ) {
            let listed: Vec<_> = names
                .iter()
                .map(|(container, ifname)| json!({"containerID": container, "ifname": ifname}))
                .collect();
            let gap = " ".repeat(gap);
            let items: Vec<String> = listed.iter().map(|item| format!("{gap}{item}")).collect();
            let text =
                format!(r#"{{"name":"n","cni.dev/attachments":[{}]}}"#, items.join(","));
            let network = network(text);
            let set = network.valid_attachments().unwrap().unwrap();
            let wanted: BTreeSet<_> = names.iter().map(|(c, i)| id(c, i)).collect();
            prop_assert_eq!(&set.iter().collect::<BTreeSet<_>>(), &wanted);
            for id in &wanted {
                prop_assert!(set.contains(id) && set.has_container(&id.container_id));
            }
            prop_assert!(!set.contains(&id("d", "")) && !set.has_container("d"));
        }
    }
}
