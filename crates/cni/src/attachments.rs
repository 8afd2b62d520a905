//! The attachments that must survive a GC.

use crate::config::{self, ConfError};
use crate::request::AttachmentId;
use serde_json::Value;
use std::io::{self, Write};
use std::iter::once;
use std::sync::Arc;

/// A set of attachments, as `cni.dev/valid-attachments` lists them.
#[derive(Debug, Clone, Copy)]
pub struct Attachments<'n>(&'n List);

/// Attachments in little memory: their [`kept`] names, and 16 bytes for each.
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

/// Before the digits of a kept name, and before any other.
const DIGITS: u8 = 0;
const TEXT: u8 = 1;

/// A name as it is kept: runtimes make IDs of 64 hexadecimal digits, of which two
/// make a byte.
fn kept(name: &str) -> Vec<u8> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = name.as_bytes().as_chunks();
    let digits = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
    let of_digits: Option<Vec<u8>> = once(Some(DIGITS)).chain(digits).collect();
    match of_digits {
        Some(name) if rest.is_empty() => name,
        _ => once(TEXT).chain(name.bytes()).collect(),
    }
}

/// What was [`kept`].
fn told(name: &[u8]) -> String {
    match name.split_first() {
        Some((&DIGITS, pairs)) => {
            let digits = pairs.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
        }
        Some((_, text)) => String::from_utf8_lossy(text).into_owned(),
        None => String::new(),
    }
}

impl Attachments<'_> {
    /// Is `attachment` one of them?
    pub fn contains(&self, attachment: &AttachmentId) -> bool {
        let wanted = [kept(&attachment.container_id), kept(&attachment.ifname)];
        let wanted = wanted.each_ref().map(Vec::as_slice);
        self.0.entries.binary_search_by(|entry| self.0.names(entry).cmp(&wanted)).is_ok()
    }

    /// Does one of them belong to this container?
    pub fn has_container(&self, container_id: &str) -> bool {
        let wanted = kept(container_id);
        let is = |entry: &[Span; 2]| self.0.names(entry)[0].cmp(&wanted);
        self.0.entries.binary_search_by(is).is_ok()
    }

    /// All of them, those of a container together.
    pub fn iter(&self) -> impl Iterator<Item = AttachmentId> {
        self.0.iter()
    }
}

impl List {
    fn iter(&self) -> impl Iterator<Item = AttachmentId> {
        self.entries.iter().map(|entry| {
            let [container_id, ifname] = self.names(entry).map(told);
            AttachmentId { container_id, ifname }
        })
    }

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
        let name = kept(name);
        if self.names(&[last, last])[0] == name {
            return last;
        }
        let start = self.names.len();
        self.names.extend(&name);
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
    /// Under which name, and what is wrong with it. Delegates of this process share it.
    counts: Option<(usize, Result<Arc<List>, ConfError>)>,
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
            self.counts = Some((name, Ok(Arc::default())));
        }
    }

    /// The next item of the list that began under this name.
    pub(crate) fn item(&mut self, name: usize, item: Result<AttachmentId, ConfError>) {
        if let Some((counts, list)) = &mut self.counts
            && *counts == name
            && let Ok(items) = list
        {
            match item {
                Ok(attachment) => Arc::make_mut(items).push(&attachment),
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
            Ok(_) => self.counts = Some((name, Ok(Arc::default()))),
            Err(_) if counts.is_some_and(|counts| counts < name) => {}
            Err(e) => self.counts = Some((name, Err(e))),
        }
    }

    /// Nothing more comes.
    pub(crate) fn end(&mut self) {
        if let Some((_, Ok(list))) = &mut self.counts {
            Arc::make_mut(list).sort();
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

    /// The same places with what stands in the list of `other`.
    pub(crate) fn with_items_of(self, other: &Listed) -> Listed {
        Listed { counts: other.counts.clone(), ..self }
    }

    /// `text` with the list again under each name that it was taken out from.
    pub(crate) fn put_back<'t>(&'t self, text: &'t [u8]) -> Whole<'t> {
        Whole { listed: self, text }
    }
}

/// A configuration as it came, list and all, to be written piece by piece: in
/// memory it would be megabytes.
#[derive(Clone, Copy)]
pub(crate) struct Whole<'t> {
    listed: &'t Listed,
    text: &'t [u8],
}

impl Whole<'_> {
    /// Writes it.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let (places, mut from) = (self.places(), 0);
        for place in places.into_iter().flatten() {
            to.write_all(&self.text[from..place])?;
            from = place;
            for (at, id) in self.items().into_iter().flat_map(List::iter).enumerate() {
                let [container_id, ifname] = [id.container_id, id.ifname].map(Value::from);
                let comma = if at > 0 { "," } else { "" };
                write!(to, r#"{comma}{{"containerID":{container_id},"ifname":{ifname}}}"#)?;
            }
        }
        to.write_all(&self.text[from..])
    }

    /// It has at most so many bytes.
    pub(crate) fn most(&self) -> usize {
        /// `,{"containerID":"","ifname":""}`
        const FRAME: usize = 31;
        /// Of a byte that is escaped, `\u0000`.
        const ESCAPED: usize = 6;
        let of_items = |list: &List| {
            let names = list.entries.iter().flatten().map(|name| name.length as usize);
            list.entries.len() * FRAME + names.sum::<usize>() * ESCAPED
        };
        let lists = self.places().iter().flatten().count();
        self.text.len() + self.items().map_or(0, of_items) * lists
    }

    fn items(&self) -> Option<&List> {
        self.listed.read().ok().flatten().map(|attachments| attachments.0)
    }

    /// Where the lists stand, in the order of the text.
    fn places(&self) -> [Option<usize>; 2] {
        let mut places = self.listed.places;
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Network;
    use proptest::prelude::*;
    use serde_json::json;
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
        assert_eq!(set.iter().filter(|one| *one == id("ab", "é")).count(), 1);
        assert_eq!(set.iter().count(), 5);
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

    #[test]
    fn ids_of_digits_take_half() {
        for (name, bytes) in [("0123456789abcdef", 9), ("0123456789abcde", 16), ("AB", 3), ("", 1)]
        {
            assert_eq!((kept(name).len(), told(&kept(name))), (bytes, name.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn what_was_listed_is_in_the_set(
            names in prop::collection::vec(
                ("[a-c\"\\\\é]{0,3}|[0-9a-f]{0,4}", "[a-c\n]{0,2}"),
                0..20,
            ),
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
            prop_assert!(!set.contains(&id("x", "")) && !set.has_container("x"));
        }
    }
}
