//! A configuration as it comes in, piece by piece.
//!
//! The runtime lists all attachments of a network in the configuration of a GC,
//! twice, for plugins of any age: a node with thousands writes megabytes. The
//! lists are taken out of the text as they come, one attachment at a time, and
//! kept once ([`Listed`]); in the text they are empty. As a tree of JSON values
//! they would take ten times the memory.

use crate::attachments::Listed;
use crate::config;
use crate::request::AttachmentId;
use serde_json::Value;
use std::io::{self, Write};
use std::ops::Range;

/// Of a name that may be a list's, in bytes: each character escaped, and the quotes.
const LONGEST_NAME: usize = Listed::KEYS[0].len() * 6 + 2;

/// Takes a configuration in; write its bytes to it.
#[derive(Default)]
pub(crate) struct Intake {
    /// What has come, without what stands in the lists.
    text: Vec<u8>,
    listed: Listed,
    /// Objects and lists that are open, that of the document included.
    depth: usize,
    string: Option<OpenString>,
    /// Where the text has the last string.
    last: Range<usize>,
    /// The list of attachments whose value comes next.
    next: Option<usize>,
    reading: Option<Reading>,
    /// Why what stands in a list is no JSON.
    broken: Option<String>,
}

/// A configuration that was taken in.
pub(crate) struct Taken {
    pub(crate) text: Vec<u8>,
    pub(crate) document: Value,
    pub(crate) listed: Listed,
}

/// A string whose end has not come.
#[derive(Default)]
struct OpenString {
    escaped: bool,
}

/// What a byte of a list does.
enum Step {
    Inside,
    /// It ends an item.
    Item,
    /// It ends the list.
    End,
}

/// A list of attachments whose end has not come.
struct Reading {
    /// Which one it is.
    list: usize,
    /// What has come of its next item.
    item: Vec<u8>,
    /// Items before that.
    items: usize,
    depth: usize,
    string: Option<OpenString>,
}

impl Intake {
    /// What was taken in, as a document. Places that an error names do not count
    /// what stood in lists.
    ///
    /// # Errors
    /// The decoder's text: it is no JSON.
    pub(crate) fn finish(mut self) -> Result<Taken, String> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let mut document = config::parse(&self.text).map_err(|e| e.to_string())?;
        if let Some(object) = document.as_object_mut() {
            object.retain(|key, value| match Listed::named(key) {
                None => true,
                Some(list) => {
                    self.listed.settle(list, value);
                    false
                }
            });
        }
        self.listed.end();
        Ok(Taken { text: self.text, document, listed: self.listed })
    }

    fn byte(&mut self, byte: u8) {
        self.text.push(byte);
        if let Some(string) = &mut self.string {
            if string.ends_with(byte) {
                self.string = None;
                self.last.end = self.text.len();
            }
            return;
        }
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return,
            b':' if self.depth == 1 => {
                // It may be escaped.
                let name = std::mem::take(&mut self.last);
                if name.len() <= LONGEST_NAME {
                    let name = serde_json::from_slice::<String>(&self.text[name]);
                    self.next = name.ok().and_then(|name| Listed::named(&name));
                }
                return;
            }
            b'"' => {
                self.string = Some(OpenString::default());
                self.last = self.text.len() - 1..self.text.len();
            }
            b'[' if let Some(list) = self.next => {
                self.listed.begin(list, self.text.len());
                self.reading = Some(Reading::new(list));
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.next = None;
    }

    /// An item of the list has come.
    fn item(&mut self) {
        let Some(reading) = &mut self.reading else { return };
        let place = format!("[{}]", reading.items);
        match config::parse(&reading.item) {
            Ok(item) => {
                let attachment = config::decode::<AttachmentId>(&item);
                self.listed.item(reading.list, attachment.map_err(|e| e.inside(&place)));
            }
            Err(e) => {
                let list = Listed::KEYS[reading.list];
                self.broken.get_or_insert_with(|| format!("{list}{place}: {e}"));
            }
        }
        reading.item.clear();
        reading.items += 1;
    }
}

impl Write for Intake {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        for byte in piece {
            match self.reading.as_mut().map(|reading| reading.byte(*byte)) {
                None => self.byte(*byte),
                Some(Step::Inside) => {}
                Some(Step::Item) => self.item(),
                Some(Step::End) => {
                    if self.reading.take_if(|reading| reading.is_empty()).is_none() {
                        self.item();
                        self.reading = None;
                    }
                    self.text.push(*byte);
                }
            }
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Reading {
    fn new(list: usize) -> Reading {
        Reading { list, item: Vec::new(), items: 0, depth: 0, string: None }
    }

    /// Has nothing come yet?
    fn is_empty(&self) -> bool {
        self.items == 0 && self.item.is_empty()
    }

    fn byte(&mut self, byte: u8) -> Step {
        if let Some(string) = &mut self.string {
            if string.ends_with(byte) {
                self.string = None;
            }
            self.item.push(byte);
            return Step::Inside;
        }
        match byte {
            b',' if self.depth == 0 => return Step::Item,
            b']' if self.depth == 0 => return Step::End,
            b' ' | b'\t' | b'\n' | b'\r' if self.item.is_empty() => return Step::Inside,
            b'"' => self.string = Some(OpenString::default()),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.item.push(byte);
        Step::Inside
    }
}

impl OpenString {
    /// Does it end with this byte of it?
    fn ends_with(&mut self, byte: u8) -> bool {
        let escapes = byte == b'\\' && !self.escaped;
        let ends = byte == b'"' && !self.escaped;
        self.escaped = escapes;
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn take(pieces: &[&[u8]]) -> Result<Taken, String> {
        let mut intake = Intake::default();
        for piece in pieces {
            intake.write_all(piece).expect("nothing can fail");
        }
        intake.finish()
    }

    fn listed(taken: &Taken) -> Option<Value> {
        let json = |id: AttachmentId| json!({"containerID": id.container_id, "ifname": id.ifname});
        taken.listed.read().expect("well-formed").map(|list| list.iter().map(json).collect())
    }

    fn whole(taken: &Taken) -> Vec<u8> {
        let (whole, mut bytes) = (taken.listed.put_back(&taken.text), Vec::new());
        whole.write(&mut bytes).expect("nothing can fail");
        assert!(bytes.len() <= whole.most());
        bytes
    }

    #[test]
    fn lists_are_taken_out_of_the_document_alone() {
        let item = r#"{"containerID":"c","ifname":"[\"],"}"#;
        let text = format!(
            "{{\"name\":\"n\", \"\\u0063ni.dev/Attachments\" :\n[ {item} ,{item}\t],\n\
             \"x\":[\"cni.dev/attachments\", [{item}], {{\"cni.dev/attachments\":[{item}]}}],\
             \"y\":\"cni.dev/attachments\"}}"
        );
        let taken = take(&[text.as_bytes()]).expect("it is JSON");
        assert_eq!(
            listed(&taken),
            Some(
                json!([{"containerID": "c", "ifname": "[\"],"}, {"containerID": "c", "ifname": "[\"],"}])
            )
        );
        let left = String::from_utf8_lossy(&taken.text).into_owned();
        assert_eq!(left.matches("containerID").count(), 2, "{left}");
        assert_eq!(taken.document["x"][2]["cni.dev/attachments"][0]["containerID"], "c");
        assert_eq!(taken.document.as_object().expect("an object").len(), 3);
        let whole = whole(&taken);
        assert_eq!(config::parse(&whole).ok(), config::parse(text.as_bytes()).ok());
    }

    /// It must not fill the memory of whoever gets it.
    #[test]
    fn the_list_is_put_back_once_for_a_name() {
        let many = r#""cni.dev/attachments":[],"#.repeat(50);
        let item = r#"{"containerID":"c","ifname":"eth0"}"#;
        let text = format!("{{{many}\"cni.dev/attachments\":[{item},{item}],{many}\"x\":1}}");
        let taken = take(&[text.as_bytes()]).expect("it is JSON");
        assert_eq!(listed(&taken), Some(json!([])), "the last one counts");
        let text = format!("{{{many}\"cni.dev/attachments\":[{item},{item}],\"x\":1}}");
        let taken = take(&[text.as_bytes()]).expect("it is JSON");
        let whole = whole(&taken);
        assert_eq!(String::from_utf8_lossy(&whole), text);
    }

    #[test]
    fn colons_behind_a_long_name_are_soon_read() {
        let name = "n".repeat(256 << 10);
        let text = format!("{{\"{name}\"{}1}}", ":".repeat(32 << 10));
        assert!(take(&[text.as_bytes()]).is_err());
        let escaped: String = "cni.dev/valid-attachments"
            .chars()
            .map(|c| format!("\\u{:04x}", u32::from(c)))
            .collect();
        let text = format!("{{\"{escaped}\":[]}}");
        assert_eq!(listed(&take(&[text.as_bytes()]).expect("it is JSON")), Some(json!([])));
    }

    #[test]
    fn what_is_no_json_in_a_list_is_none_in_the_document() {
        for (list, why) in [
            ("[,]", "[0]: EOF while parsing a value"),
            ("[1,]", "[1]: EOF while parsing a value"),
            ("[1 2]", "[0]: trailing characters"),
            ("[{]}]", "[0]: key must be a string"),
            ("[1,{\"containerID\":}]", "[1]: expected value"),
            ("[1,\"]}", "EOF while parsing a list"),
        ] {
            let text = format!("{{\"name\":\"n\",\"cni.dev/valid-attachments\":{list}}}");
            let error = take(&[text.as_bytes()]).map(drop).expect_err(list);
            assert!(error.contains(why), "{list}: {error}");
        }
    }

    fn items() -> impl Strategy<Value = Value> {
        let item = ("[a-c\"\\\\é\\]\\[{},: ]{0,6}|[0-9a-f]{0,4}", "[a-c\n]{0,2}");
        prop::collection::vec(item, 0..6).prop_map(|items| {
            let item = |(c, i)| json!({"containerID": c, "ifname": i});
            items.into_iter().map(item).collect()
        })
    }

    proptest! {
        /// Against the decoder, which has all of it at once.
        #[test]
        fn pieces_make_the_whole(
            lists in prop::option::of(items()),
            others in prop::collection::btree_map("[a-e/\"\\\\é]{0,3}", items(), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            pretty in any::<bool>(),
        ) {
            let mut document = json!(others);
            if let Some(list) = &lists {
                document["cni.dev/attachments"] = list.clone();
                document["cni.dev/valid-attachments"] = list.clone();
            }
            let text = match pretty {
                true => format!("{document:#}"),
                false => document.to_string(),
            };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|two| &text.as_bytes()[two[0]..two[1]]).collect();
            let taken = take(&pieces).expect("it is JSON");
            prop_assert_eq!(&taken.document, &json!(others));
            let whole = whole(&taken);
            let sorted = |mut list: Value| {
                if let Value::Array(list) = &mut list {
                    list.sort_by_key(Value::to_string);
                }
                list
            };
            prop_assert_eq!(listed(&taken).map(sorted), lists.map(sorted));
            let mut whole = config::parse(&whole).expect("it is JSON");
            for key in Listed::KEYS {
                for document in [&mut whole, &mut document] {
                    if let Some(list) = document.get_mut(key) {
                        *list = sorted(list.take());
                    }
                }
            }
            prop_assert_eq!(whole, document);
        }
    }
}
