//! A delegate that is a shell script, made by the test: it writes down how it
//! was called, and does what the test says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::{Host, plugins_folder};

/// A script in a folder of its own, which [`Recorder::path`] puts before the
/// plugins under test.
pub(crate) struct Recorder {
    folder: PathBuf,
    name: &'static str,
}

impl Recorder {
    /// Writes the script: what it does after writing down the call, in sh, with
    /// the variables of the protocol set.
    pub(crate) fn new(host: &Host, name: &'static str, script: &str) -> Self {
        let folder = host.scratch().join("delegates");
        fs::create_dir_all(&folder).expect("the scratch folder is ours");
        let recorder = Self { folder, name };
        let log = recorder.file("log");
        let text = format!(
            "#!/bin/sh\necho \"$CNI_COMMAND $(readlink /proc/self/ns/net)\" >>{}\n{script}\n",
            log.display()
        );
        // Written beside and renamed: a file that is being written cannot be
        // executed.
        let beside = recorder.file("new");
        fs::write(&beside, text).expect("the folder is ours");
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        fs::rename(&beside, recorder.program()).expect("the folder is ours");
        recorder
    }

    /// One that gives this address, and succeeds at all else.
    pub(crate) fn giving(host: &Host, name: &'static str, address: &str) -> Self {
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": address}]});
        Self::new(host, name, &format!("[ $CNI_COMMAND != ADD ] || echo '{result}'"))
    }

    /// The script.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// A file of its own beside it.
    pub(crate) fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!(".{}.{extension}", self.name))
    }

    /// `CNI_PATH` with it.
    pub(crate) fn path(&self) -> String {
        format!("{}:{}", self.folder.display(), plugins_folder().display())
    }

    /// `ipam` that names it.
    pub(crate) fn ipam(&self) -> Value {
        json!({"type": self.name})
    }

    /// The calls until now: the verb and the network namespace it ran in.
    pub(crate) fn calls(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        let call = |line: &str| {
            let (verb, namespace) = line.split_once(' ').expect("a verb and a namespace");
            (verb.to_owned(), namespace.to_owned())
        };
        log.lines().map(call).collect()
    }

    /// The verbs until now.
    pub(crate) fn verbs(&self) -> Vec<String> {
        self.calls().into_iter().map(|(verb, _)| verb).collect()
    }
}
