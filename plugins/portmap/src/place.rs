//! Whether the owner of a port is still there.
//!
//! Inode and path of the container's namespace stand behind the owner in a
//! comment. A namespace lives as long as that path leads to that inode; inodes
//! alone are used again at once, and paths soon enough.

use linux::Namespace;
use std::path::{Path, PathBuf};

/// A container's namespace, as a comment names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    inode: u64,
    path: PathBuf,
}

impl Place {
    /// The namespace at `path`; `None` when there is none now.
    pub(crate) fn of(path: &Path) -> Option<Place> {
        let namespace = Namespace::open(path).ok()?;
        Some(Place { inode: namespace.id().ino, path: path.to_owned() })
    }

    /// The words for a comment with `room` bytes left; none where they do not
    /// fit, as half a path would lead elsewhere.
    pub(crate) fn words(&self, room: usize) -> String {
        let path = self.path.to_str().filter(|path| {
            path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic() && c != '"')
        });
        path.map(|path| format!(", ns: {} {path}", self.inode))
            .filter(|words| words.len() <= room)
            .unwrap_or_default()
    }

    /// What [`Place::words`] wrote.
    pub(crate) fn read(comment: &str) -> Option<Place> {
        let (_, words) = comment.split_once(", ns: ")?;
        let (inode, path) = words.split_once(' ')?;
        Some(Place { inode: inode.parse().ok()?, path: PathBuf::from(path) })
    }

    /// Whether it is still there. What cannot be told counts as there.
    pub(crate) fn is_alive(&self) -> bool {
        match Namespace::open(&self.path) {
            Ok(namespace) => namespace.id().ino == self.inode,
            Err(e) => !e.is_not_found() && !e.is_not_namespace(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back() {
        let place = Place { inode: 4_026_532_294, path: "/run/netns/x".into() };
        let words = place.words(40);
        assert_eq!(words, ", ns: 4026532294 /run/netns/x");
        assert_eq!(Place::read(&format!("key, ports: 2{words}")), Some(place.clone()));
        assert_eq!(place.words(10), "");
        for odd in ["/run/a b", "/run/\"x", "relative"] {
            assert_eq!(Place { inode: 1, path: odd.into() }.words(100), "", "{odd}");
        }
    }

    #[test]
    fn a_place_is_alive_while_path_and_inode_agree() {
        let own = Path::new("/proc/thread-self/ns/net");
        let here = Place::of(own).expect("a thread has a namespace");
        assert!(here.is_alive());
        assert!(!Place { inode: here.inode + 1, ..here.clone() }.is_alive());
        assert!(!Place { path: "/run/netns/no-such".into(), ..here.clone() }.is_alive());
        assert!(!Place { path: "/proc/self/status".into(), ..here }.is_alive());
    }
}
