//! Whether the owner of a port is still there.
//!
//! Behind the owner in a comment stands what its namespace is recognised by, and its
//! path where there is room. It lives if the path leads to it, and also if not: it
//! may be mounted elsewhere, or live in a process. The kernel is asked then; before
//! Linux 6.18 it cannot tell a namespace from a later one with the same number.

use linux::netns::{Trace, ended};
use std::path::{Path, PathBuf};

/// A container's namespace, as a comment names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    trace: Trace,
    path: Option<PathBuf>,
}

impl Place {
    /// The namespace at `path`; `None` when there is none now.
    pub(crate) fn of(path: &Path) -> Option<Place> {
        Some(Place { trace: Trace::of(path)?, path: Some(path.to_owned()) })
    }

    /// The words for a comment with `room` bytes left; without the path where that
    /// does not fit, as half of it would lead elsewhere.
    pub(crate) fn words(&self, room: usize) -> String {
        let number = match self.trace {
            Trace { number, id: 0 } => format!(", ns: {number}"),
            Trace { number, id } => format!(", ns: {number}/{id}"),
        };
        let path = self.path.as_ref().and_then(|path| path.to_str()).filter(|path| {
            path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic() && c != '"')
        });
        path.map(|path| format!("{number} {path}"))
            .filter(|words| words.len() <= room)
            .or_else(|| Some(number).filter(|number| number.len() <= room))
            .unwrap_or_default()
    }

    /// What [`Place::words`] wrote.
    pub(crate) fn read(comment: &str) -> Option<Place> {
        let (_, words) = comment.split_once(", ns: ")?;
        let (number, path) = match words.split_once(' ') {
            Some((number, path)) => (number, Some(PathBuf::from(path))),
            None => (words, None),
        };
        let (number, id) = number.split_once('/').unwrap_or((number, "0"));
        Some(Place { trace: Trace { number: number.parse().ok()?, id: id.parse().ok()? }, path })
    }

    /// Whether it is still there, as `own` sees it, the namespace of whoever wants to
    /// know. What cannot be told counts as there.
    pub(crate) fn is_alive(&self, own: Option<&Place>) -> bool {
        let is_same = |there: Trace| {
            there.number == self.trace.number
                && (there.id == self.trace.id || there.id == 0 || self.trace.id == 0)
        };
        if self.path.as_deref().and_then(Trace::of).is_some_and(is_same) {
            return true;
        }
        // The number was given on, most likely to the next container's.
        let given_on = |own: &Place| self.path.is_some() && is_same(own.trace) && own.trace.id == 0;
        !own.is_some_and(given_on) && ended(&[self.trace]) != [true]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: Trace = Trace { number: 4_026_532_294, id: 0 };

    fn here() -> Place {
        Place::of(Path::new("/proc/thread-self/ns/net")).expect("a thread has a namespace")
    }

    #[test]
    fn a_place_is_read_back() {
        for (id, text) in [(0, ", ns: 4026532294"), (77, ", ns: 4026532294/77")] {
            let trace = Trace { id, ..TRACE };
            let place = Place { trace, path: Some("/run/netns/x".into()) };
            let words = place.words(40);
            assert_eq!(words, format!("{text} /run/netns/x"));
            assert_eq!(Place::read(&format!("key, ports: 2{words}")), Some(place.clone()));
            assert_eq!(place.words(20), text);
            assert_eq!(Place::read(&format!("key{text}")), Some(Place { trace, path: None }));
            assert_eq!(place.words(10), "");
            for odd in ["/run/a b", "/run/\"x", "relative"] {
                assert_eq!(Place { trace, path: Some(odd.into()) }.words(100), text, "{odd}");
            }
        }
    }

    #[test]
    fn a_place_is_alive_until_it_is_known_to_have_ended() {
        let here = here();
        assert!(here.is_alive(None));
        let elsewhere = |path: &str| Place { path: Some(path.into()), ..here.clone() };
        for place in [elsewhere("/run/netns/no-such"), elsewhere("/proc/self/status")] {
            assert!(place.is_alive(None), "{place:?}");
            assert!(Place { path: None, ..place }.is_alive(None));
        }
    }

    /// Of a kernel that does not tell them apart by more than that.
    #[test]
    fn a_number_that_was_given_on_tells() {
        let own = Place { trace: Trace { id: 0, ..here().trace }, ..here() };
        let gone = Place { path: Some("/run/netns/no-such".into()), ..own.clone() };
        assert!(!gone.is_alive(Some(&own)));
        assert!(own.is_alive(Some(&own)), "another interface of the container");
        assert!(gone.is_alive(Some(&Place { trace: TRACE, ..own })));
    }
}
