//! What plugins take on the disk.

use crate::Outcome;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Files of a folder of plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) names: Vec<String>,
    /// Of all names, a file with several counted once.
    pub(crate) bytes: u64,
}

/// What is in `folder`, but for hidden files; of `only` these names, if given.
pub(crate) fn installed(folder: &Path, only: Option<&[String]>) -> Outcome<Installed> {
    let failed = |e| format!("read {}: {e}", folder.display());
    let mut names = Vec::new();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = only.is_none_or(|only| only.contains(&name)) && !name.starts_with('.');
        let metadata = fs::metadata(entry.path()).map_err(failed)?;
        if wanted && metadata.is_file() {
            files.insert((metadata.dev(), metadata.ino()), metadata.len());
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Installed { names, bytes: files.into_values().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let folder = std::env::temp_dir().join(format!("bench-installed-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a"), [0; 1000]).unwrap();
        fs::hard_link(folder.join("a"), folder.join("b")).unwrap();
        fs::write(folder.join("c"), [0; 10]).unwrap();
        let all = installed(&folder, None).unwrap();
        let some = installed(&folder, Some(&["b".to_owned()])).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((all.names.len(), all.bytes), (3, 1010));
        assert_eq!((some.names.len(), some.bytes), (1, 1000));
    }
}
