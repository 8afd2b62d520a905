//! The attachments that must survive a GC.

use crate::config::{self, ConfError};
use crate::request::AttachmentId;
use serde_json::{Value, json};
use std::borrow::Cow;

/// A set of attachments, as `cni.dev/valid-attachments` lists them.
#[derive(Debug, Clone, Copy)]
pub struct Attachments<'n>(&'n List);

/// Attachments in little memory: their names, and 16 bytes for each.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct List {
    /// Container and interface.
    entries: Vec<[Span; 2]>,
    names: Vec<u8>,
}

/// A piece of the names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

impl Attachments<'_> {
    /// Is `attachment` one of them?
    pub fn contains(&self, attachment: &AttachmentId) -> bool {
        let wanted = [attachment.container_id.as_bytes(), attachment.ifname.as_bytes()];
        self.0.entries.binary_search_by(|entry| self.0.names(entry).cmp(&wanted)).is_ok()
    }

    /// Does one of them belong to this container?
    pub fn has_container(&self, container_id: &str) -> bool {
        let is = |entry: &[Span; 2]| self.0.names(entry)[0].cmp(container_id.as_bytes());
        self.0.entries.binary_search_by(is).is_ok()
    }

    /// All of them, by container and interface.
    pub fn iter(&self) -> impl Iterator<Item = AttachmentId> {
        self.0.entries.iter().map(|entry| {
            let [container_id, ifname] =
                self.0.names(entry).map(|name| String::from_utf8_lossy(name).into_owned());
            AttachmentId { container_id, ifname }
        })
    }

    /// As a configuration lists them.
    pub fn to_json(&self) -> Value {
        let one = |id: AttachmentId| json!({"containerID": id.container_id, "ifname": id.ifname});
        self.iter().map(one).collect()
    }
}

impl List {
    fn names(&self, entry: &[Span; 2]) -> [&[u8]; 2] {
        entry.map(|Span { start, length }| &self.names[start as usize..][..length as usize])
    }

    fn push(&mut self, attachment: &AttachmentId) {
        let last = self.entries.last().copied().unwrap_or_default();
        let container = self.place(&attachment.container_id, last[0]);
        let ifname = self.place(&attachment.ifname, last[1]);
        self.entries.push([container, ifname]);
    }

    /// Where `name` stands: where `last` does, if it is the same.
    fn place(&mut self, name: &str, last: Span) -> Span {
        if self.names(&[last, last])[0] == name.as_bytes() {
            return last;
        }
        let start = self.names.len();
        self.names.extend(name.as_bytes());
        // A configuration has at most some MiB.
        Span { start: start as u32, length: name.len() as u32 }
    }

    fn sort(&mut self) {
        let List { entries, names } = self;
        let text = |Span { start, length }: Span| &names[start as usize..][..length as usize];
        entries.sort_unstable_by(|a, b| a.map(text).cmp(&b.map(text)));
    }
}

/// The list of attachments of a configuration. It can stand under two names.
#[derive(Default, Clone)]
pub(crate) struct Listed {
    /// Under which name, and what is wrong with it.
    counts: Option<(usize, Result<List, ConfError>)>,
    /// Where the last list of each name began in the text that it was taken out of.
    places: [Option<usize>; 2],
}

impl Listed {
    /// By falling importance; the runtime writes both, for plugins of any age.
    pub(crate) const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

    /// Which of the names `key` is.
    pub(crate) fn named(key: &str) -> Option<usize> {
        Listed::KEYS.iter().position(|name| key.eq_ignore_ascii_case(name))
    }

    /// A list begins, at this place of the text. Of two of a name the last counts.
    pub(crate) fn begin(&mut self, name: usize, place: usize) {
        self.places[name] = Some(place);
        if self.counts.as_ref().is_none_or(|(counts, _)| *counts >= name) {
            self.counts = Some((name, Ok(List::default())));
        }
    }

    /// The next item of the list that began under this name.
    pub(crate) fn item(&mut self, name: usize, item: Result<AttachmentId, ConfError>) {
        if let Some((counts, list)) = &mut self.counts
            && *counts == name
            && let Ok(items) = list
        {
            match item {
                Ok(attachment) => items.push(&attachment),
                Err(e) => *list = Err(e),
            }
        }
    }

    /// What the document has under this name, the items of lists taken out. Null is
    /// an empty list, unless there is another.
    pub(crate) fn settle(&mut self, name: usize, value: &Value) {
        let counts = self.counts.as_ref().map(|(counts, _)| *counts);
        match config::decode::<Option<Vec<AttachmentId>>>(value) {
            Ok(_) if counts.is_some_and(|counts| counts <= name) => {}
            Ok(_) => self.counts = Some((name, Ok(List::default()))),
            Err(_) if counts.is_some_and(|counts| counts < name) => {}
            Err(e) => self.counts = Some((name, Err(e))),
        }
    }

    /// Nothing more comes.
    pub(crate) fn end(&mut self) {
        if let Some((_, Ok(list))) = &mut self.counts {
            list.sort();
        }
    }

    /// The one that counts, or what is wrong with it under its key.
    pub(crate) fn read(&self) -> Result<Option<Attachments<'_>>, (&'static str, &ConfError)> {
        match &self.counts {
            None => Ok(None),
            Some((_, Ok(list))) => Ok(Some(Attachments(list))),
            Some((name, Err(error))) => Err((Listed::KEYS[*name], error)),
        }
    }

    /// `text` with the list again under each name that it was taken out from.
    pub(crate) fn put_back<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let Ok(Some(attachments)) = self.read() else { return text.into() };
        let (mut whole, mut from) = (Vec::new(), 0);
        let mut places: Vec<usize> = self.places.into_iter().flatten().collect();
        places.sort_unstable();
        for place in places {
            whole.extend(&text[from..place]);
            from = place;
            for (at, id) in attachments.iter().enumerate() {
                // As text at once: a tree of values would take ten times the memory.
                let [container_id, ifname] = [id.container_id, id.ifname].map(Value::from);
                let comma = if at > 0 { "," } else { "" };
                let item = format!(r#"{comma}{{"containerID":{container_id},"ifname":{ifname}}}"#);
                whole.extend(item.as_bytes());
            }
        }
        whole.extend(&text[from..]);
        whole.into()
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
