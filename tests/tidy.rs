//! The walls of the house that the compiler does not hold: who may import whom,
//! who may be unsafe, print, write files or start programs. Fails with what to
//! change; the reasons are in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a package may import of this workspace. The rooms, below plugins/ and
/// ipam/, are not listed: they share one rule.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("attach", &["cni", "linux", "store"]),
    ("bench", &[]),
    ("cni", &[]),
    // host-local for its leases, which it alone can read
    ("cnitool", &["cni", "host-local", "runtime"]),
    ("linux", &[]),
    ("runtime", &["cni", "store"]),
    ("store", &[]),
    ("testkit", &[]),
    // linux for the allocator alone
    ("oxcni", &["cni", "linux"]),
];
const ROOM_MAY_IMPORT: [&str; 4] = ["attach", "cni", "linux", "store"];

/// Crates of others that stay behind one wall, with who may import them.
const BEHIND_A_WALL: [(&str, &[&str]); 3] =
    [("rtnetlink", &["linux"]), ("fs2", &["store"]), ("libtest-mimic", &["oxcni"])];

/// Features of nix that enter, make or change namespaces and mounts.
const NAMESPACE_FEATURES: [&str; 2] = ["mount", "sched"];
const MAY_ENTER_NAMESPACES: [&str; 3] = ["linux", "testkit", "bench"];

/// Never linked into what a runtime executes for each container: too large, too
/// slow to start, or another way of doing what is done here.
const NOT_IN_PLUGINS: [&str; 9] = [
    "async-io",
    "async-std",
    "clap",
    "libtest-mimic",
    "openssl",
    "regex",
    "smol",
    "testkit",
    "tokio",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "core", "misc", "types"];

/// Above this many lines a file is named in the report; above the second it
/// fails: split it by resource.
const LONG_FILE: usize = 500;
const TOO_LONG_FILE: usize = 800;

/// Source texts that only some folders may contain.
struct Wall {
    what: &'static str,
    texts: &'static [&'static str],
    /// Files or folders where it is allowed.
    allowed: &'static [&'static str],
    /// Whether tests may do it as well.
    in_tests: bool,
}

const WALLS: [Wall; 5] = [
    Wall {
        what: "unsafe code outside crates/linux",
        texts: &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "(unsafe_code"],
        allowed: &["crates/linux"],
        in_tests: false,
    },
    Wall {
        what: "printing outside cni::dispatch, cnitool and the benchmark",
        texts: &["println!", "print!", "eprintln!", "eprint!", "io::stdout()"],
        allowed: &["crates/cni/src/dispatch", "cnitool", "crates/bench", "crates/testkit"],
        in_tests: true,
    },
    Wall {
        what: "writing files outside crates/store",
        texts: &[
            "fs::write(",
            "File::create",
            "OpenOptions",
            "fs::rename(",
            "fs::remove_file(",
            "fs::remove_dir",
            "fs::create_dir",
            "fs::hard_link(",
            "fs::set_permissions(",
        ],
        // linux writes below /proc; the runtime's cache is the reference library's,
        // with its modes and locks; bench and testkit are not the product.
        allowed: &[
            "crates/store",
            "crates/linux",
            // a log, where one is wanted
            "crates/cni/src/log",
            "crates/bench",
            "crates/testkit",
        ],
        in_tests: true,
    },
    Wall {
        what: "starting a program other than a delegate",
        texts: &["process::Command", "Command::new("],
        // netns runs one inside a namespace, for whoever tests or drives plugins;
        // sandbox and ipam have delegates run in the host's. iptables is for the
        // backend of that name.
        allowed: &[
            "crates/cni/src/delegate",
            "crates/attach/src/sandbox",
            "crates/attach/src/ipam",
            "crates/linux/src/iptables",
            "crates/linux/src/netns",
            // conditions in nft's own words
            "crates/linux/src/nft/script",
            "crates/bench",
            "crates/testkit",
        ],
        in_tests: true,
    },
    Wall {
        what: "an async runtime's words in a program that lives two milliseconds",
        texts: &["async fn", "async move", ".await"],
        allowed: &[],
        in_tests: false,
    },
];

#[test]
fn packages_import_only_what_they_may() {
    let metadata = metadata();
    let members = members(&metadata);
    let rooms: BTreeSet<&str> =
        members.iter().filter(|(_, m)| m.is_room).map(|(name, _)| *name).collect();
    let mut faults = Vec::new();
    for (name, member) in &members {
        let listed = MAY_IMPORT.iter().find(|(known, _)| known == name).map(|(_, may)| *may);
        let Some(may) = listed.or(member.is_room.then_some(&ROOM_MAY_IMPORT)) else {
            faults.push(format!("{name} is new: say in tests/tidy.rs what it may import"));
            continue;
        };
        for import in &member.imports {
            let own = members.contains_key(import.name);
            let root_to_room = *name == "oxcni" && rooms.contains(import.name);
            if own && !import.only_tests && !may.contains(&import.name) && !root_to_room {
                faults.push(format!("{name} may not import {}", import.name));
            }
            if import.only_tests && rooms.contains(import.name) {
                faults
                    .push(format!("the tests of {name} may not import the plugin {}", import.name));
            }
            let wall = BEHIND_A_WALL.iter().find(|(walled, _)| *walled == import.name);
            if wall.is_some_and(|(_, may)| !may.contains(name)) {
                faults.push(format!("{name} may not import {}", import.name));
            }
            let entering = import.features.iter().any(|f| NAMESPACE_FEATURES.contains(f));
            if import.name == "nix" && entering && !MAY_ENTER_NAMESPACES.contains(name) {
                faults.push(format!("{name} may not use nix's {NAMESPACE_FEATURES:?}"));
            }
        }
    }
    expect_none(&faults);
}

#[test]
fn plugins_link_no_heavy_crate() {
    let metadata = metadata();
    let linked = linked_into(&metadata, "oxcni");
    assert!(linked.contains("cni"), "the graph was not read: {linked:?}");
    let heavy: Vec<_> = NOT_IN_PLUGINS.iter().filter(|name| linked.contains(**name)).collect();
    assert!(heavy.is_empty(), "linked into the plugins: {heavy:?}");
}

#[test]
fn licences_are_permissive() {
    let metadata = metadata();
    let mut faults = Vec::new();
    for package in list(&metadata["packages"]) {
        let licence = text(&package["license"]);
        if !is_permissive(licence) {
            faults.push(format!("{}: {licence:?}", text(&package["name"])));
        }
    }
    expect_none(&faults);
}

#[test]
fn every_package_has_the_workspace_lints() {
    let metadata = metadata();
    let without: Vec<_> = members(&metadata)
        .into_iter()
        .filter(|(_, member)| {
            let manifest = read(&member.folder.join("Cargo.toml"));
            !manifest.contains("[lints]\nworkspace = true")
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    expect_none(&without);
}

#[test]
fn sources_keep_behind_the_walls() {
    let mut faults = Vec::new();
    for path in sources() {
        let shown = shown(&path);
        let content = read(&path);
        for (number, line, is_test) in code_lines(&shown, &content) {
            for wall in &WALLS {
                let allowed = wall.allowed.iter().any(|folder| shown.starts_with(folder));
                if allowed || (is_test && wall.in_tests) {
                    continue;
                }
                if let Some(found) = wall.texts.iter().find(|text| has_text(line, text)) {
                    faults.push(format!("{shown}:{number}: {found:?}: {}", wall.what));
                }
            }
        }
    }
    expect_none(&faults);
}

#[test]
fn kernel_and_store_know_no_word_of_the_protocol() {
    let mut faults = Vec::new();
    for path in sources() {
        let shown = shown(&path);
        if !["crates/linux/src", "crates/store/src"].iter().any(|f| shown.starts_with(f)) {
            continue;
        }
        for (number, line) in (1..).zip(read(&path).lines()) {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            if words.any(|word| word.eq_ignore_ascii_case("cni") || word.starts_with("CNI_")) {
                faults.push(format!("{shown}:{number}: {}", line.trim()));
            }
        }
    }
    expect_none(&faults);
}

#[test]
fn modules_have_telling_names() {
    let named_emptily = |path: &Path| {
        let parts = path.components().filter_map(|part| part.as_os_str().to_str());
        parts.map(|part| part.trim_end_matches(".rs")).any(|part| EMPTY_NAMES.contains(&part))
    };
    let faults: Vec<_> =
        sources().iter().map(|p| shown(p)).filter(|p| named_emptily(Path::new(p))).collect();
    expect_none(&faults);
}

#[test]
fn files_are_short_enough_to_read() {
    let mut lengths: Vec<_> =
        sources().iter().map(|path| (read(path).lines().count(), shown(path))).collect();
    lengths.sort();
    let mut report = String::new();
    for (length, path) in lengths.iter().rev().filter(|(length, _)| *length > LONG_FILE) {
        writeln!(report, "{length:5} {path}").expect("writing to a string");
    }
    let too_long = lengths.iter().filter(|(length, _)| *length > TOO_LONG_FILE).count();
    assert_eq!(
        too_long, 0,
        "split by resource what is longer than {TOO_LONG_FILE} lines:\n{report}"
    );
    #[expect(clippy::print_stdout, reason = "the report, shown by --nocapture")]
    if !report.is_empty() {
        println!("longer than {LONG_FILE} lines:\n{report}");
    }
}

/// In the table whose first heading is "plugin" each row names one in back
/// quotes; one that says "planned" is not there yet.
#[test]
fn the_readme_lists_the_plugins_that_there_are() {
    let readme = read(&Path::new(ROOT).join("README.md"));
    let cell = |line: &str| line.split('|').nth(1).map(|cell| cell.trim().to_owned());
    let listed: BTreeSet<String> = readme
        .lines()
        .skip_while(|line| !cell(line).is_some_and(|cell| cell.eq_ignore_ascii_case("plugin")))
        .take_while(|line| line.starts_with('|'))
        .filter(|line| !line.contains("planned"))
        .filter_map(|line| Some(cell(line)?.split('`').nth(1)?.to_owned()))
        .collect();
    let output = Command::new(env!("CARGO_BIN_EXE_oxcni")).arg("--plugins").output();
    let output = output.expect("cargo built the executable");
    let names = String::from_utf8(output.stdout).expect("names are ASCII");
    let names: BTreeSet<String> = names.lines().map(str::to_owned).collect();
    assert!(!names.is_empty(), "oxcni --plugins names none");
    assert_eq!(listed, names, "left: README.md's table of plugins; right: oxcni --plugins");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut pages: Vec<PathBuf> = files_below(Path::new(ROOT), "md");
    pages.sort();
    let mut faults = Vec::new();
    for page in pages {
        let folder = page.parent().expect("a file is in a folder").to_owned();
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split(['#', ' ']).next().unwrap_or_default();
            let is_elsewhere = target.is_empty() || target.contains("://") || target.contains('@');
            if !is_elsewhere && !folder.join(target).exists() {
                faults.push(format!("{}: no {target}", shown(&page)));
            }
        }
    }
    expect_none(&faults);
}

#[test]
fn walls_are_noticed() {
    assert!(is_permissive("MIT OR Apache-2.0 OR LGPL-2.1-or-later"));
    assert!(is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(is_permissive("MIT/Apache-2.0"));
    assert!(!is_permissive("GPL-3.0-only"));
    assert!(!is_permissive("MIT AND LGPL-3.0"));
    assert!(!is_permissive(""));
    assert!(has_text("    println!(\"x\");", "println!"));
    assert!(!has_text("    eprintln!(\"x\");", "println!"));
    let source = "fn a() {}\n// unsafe {\n#[cfg(test)]\nmod tests {\n    b();\n}\n";
    let lines: Vec<_> = code_lines("crates/x/src/lib.rs", source).collect();
    assert_eq!(lines[0], (1, "fn a() {}", false));
    assert_eq!(lines[1], (3, "#[cfg(test)]", true));
    assert!(lines.iter().all(|(_, line, _)| !line.contains("unsafe")));
}

#[track_caller]
fn expect_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n  {}\n", faults.join("\n  "));
}

/// A package of this workspace.
struct Member<'a> {
    folder: PathBuf,
    is_room: bool,
    imports: Vec<Import<'a>>,
}

struct Import<'a> {
    name: &'a str,
    only_tests: bool,
    features: Vec<&'a str>,
}

/// What cargo knows, for this platform alone: the others' packages need not have
/// been downloaded.
fn metadata() -> Value {
    let cargo = env!("CARGO");
    let version = Command::new(cargo).arg("-vV").output().expect("cargo runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(host.expect("cargo names its platform"))
        .current_dir(ROOT)
        .output()
        .expect("cargo runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {complaint}");
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn members(metadata: &Value) -> BTreeMap<&str, Member<'_>> {
    let packages = list(&metadata["packages"]).iter().filter(|p| p["source"].is_null());
    packages
        .map(|package| {
            let folder = Path::new(text(&package["manifest_path"])).with_file_name("");
            let is_room = ["plugins", "ipam"]
                .iter()
                .any(|rooms| folder.strip_prefix(Path::new(ROOT).join(rooms)).is_ok());
            let imports = list(&package["dependencies"]).iter().map(|dependency| Import {
                name: text(&dependency["name"]),
                only_tests: dependency["kind"] == "dev",
                features: list(&dependency["features"]).iter().map(text).collect(),
            });
            (text(&package["name"]), Member { folder, is_room, imports: imports.collect() })
        })
        .collect()
}

/// The names of all packages that are linked into `name`.
fn linked_into(metadata: &Value, name: &str) -> BTreeSet<String> {
    let names: BTreeMap<&str, &str> =
        list(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let start = names.iter().find(|(_, known)| **known == name).map(|(id, _)| *id);
    let mut waiting = vec![start.expect("the package is in the workspace")];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in list(&nodes[id]["deps"]) {
            // A normal dependency has the kind null.
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(text(&dependency["pkg"]));
            }
        }
    }
    seen.into_iter().map(|id| names[id].to_owned()).collect()
}

/// Whether a licence expression can be met without the GPL or its relatives.
fn is_permissive(licence: &str) -> bool {
    let free = |name: &str| !name.contains("GPL") && !name.trim().is_empty();
    let all = |part: &str| {
        let part = part.replace(['(', ')'], "");
        part.split(" OR ").flat_map(|name| name.split('/')).any(free)
    };
    licence.split(" AND ").all(all)
}

/// The lines of a file that are code, with their number and whether they are of
/// a test: in a file of tests, or from `#[cfg(test)]` on.
fn code_lines<'a>(
    shown: &str,
    content: &'a str,
) -> impl Iterator<Item = (usize, &'a str, bool)> + use<'a> {
    let is_test_file = shown.starts_with("tests/")
        || shown.contains("/tests/")
        || shown.ends_with("/tests.rs")
        || shown.ends_with("_tests.rs");
    let mut in_tests = is_test_file;
    (1..).zip(content.lines()).filter_map(move |(number, line)| {
        in_tests |= line == "#[cfg(test)]";
        (!line.trim_start().starts_with("//")).then_some((number, line, in_tests))
    })
}

/// Whether the text begins at a word's beginning somewhere in the line.
fn has_text(line: &str, text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(text).any(|(at, _)| {
        !text.starts_with(is_word) || !line[..at].chars().next_back().is_some_and(is_word)
    })
}

fn sources() -> Vec<PathBuf> {
    let folders = ["cnitool", "crates", "ipam", "plugins", "tests"];
    let mut found: Vec<_> = folders
        .iter()
        .flat_map(|folder| files_below(&Path::new(ROOT).join(folder), "rs"))
        // The texts that are looked for stand in this file.
        .filter(|path| !path.ends_with("tests/tidy.rs"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no sources below {ROOT}");
    found
}

fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
