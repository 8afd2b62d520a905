use super::*;

fn parse(line: &str) -> Result<Invocation> {
    Invocation::parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn options_stand_anywhere() {
    for line in [
        "add net /run/netns/x -i eth1",
        "-i eth1 add net /run/netns/x",
        "add --ifname=eth1 net /run/netns/x",
        "add net --ifname eth1 /run/netns/x",
    ] {
        let invocation = parse(line).expect(line);
        assert_eq!(invocation.ifname.as_deref(), Some("eth1"), "{line}");
        let command = Command::Add { network: "net".into(), netns: "/run/netns/x".into() };
        assert_eq!(invocation.command, command, "{line}");
    }
    assert_eq!(parse("check --cache-dir /x n s").expect("valid").cache, Some(PathBuf::from("/x")));
}

#[test]
fn gc_must_be_told_what_to_keep() {
    let plan = |line: &str| match parse(line).map(|invocation| invocation.command) {
        Ok(Command::Gc { network, plan }) => {
            assert_eq!(network, "net");
            Ok(plan)
        }
        Ok(other) => panic!("{line}: {other:?}"),
        Err(error) => Err(error.to_string()),
    };
    for line in ["gc net", "gc net /run/netns/x"] {
        let error = plan(line).expect_err(line);
        assert!(error.contains("every attachment") && error.contains("--all"), "{error}");
    }
    plan("gc net --all --keep-existing").expect_err("a contradiction");
    plan("gc net --keep=").expect_err("empty");
    assert_eq!(plan("gc net --all"), Ok(GcPlan::default()));
    assert_eq!(plan("gc net /run/netns/x --all"), Ok(GcPlan::default()));
    assert_eq!(
        plan("gc --keep /a net --keep=/b:eth1 --keep ./c:d/e --keep /f: -n"),
        Ok(GcPlan {
            keep: vec![
                ("/a".into(), None),
                ("/b".into(), Some("eth1".into())),
                ("./c:d/e".into(), None),
                ("/f:".into(), None),
            ],
            keep_existing: false,
            dry_run: true,
        })
    );
    assert!(plan("gc net --keep-existing").is_ok_and(|plan| plan.keep_existing && !plan.dry_run));
}

#[test]
fn leases_are_freed_only_when_asked() {
    let plan = |line: &str| match parse(line).map(|invocation| invocation.command) {
        Ok(Command::Leases { plan, .. }) => Ok(plan),
        Ok(other) => panic!("{line}: {other:?}"),
        Err(error) => Err(error.to_string()),
    };
    let plan_of = |only_stale, free| LeasePlan { data_dirs: Vec::new(), only_stale, free };
    assert_eq!(plan("leases"), Ok(plan_of(false, false)));
    assert_eq!(plan("leases net --stale"), Ok(plan_of(true, false)));
    assert_eq!(plan("leases --reconcile -n"), Ok(plan_of(true, false)));
    assert_eq!(plan("leases --reconcile"), Ok(plan_of(true, true)));
    let dirs = plan("leases --data-dir /a --data-dir=/b").map(|plan| plan.data_dirs);
    assert_eq!(dirs, Ok(vec!["/a".into(), "/b".into()]));
    for line in ["leases -n", "leases --data-dir="] {
        assert!(plan(line).expect_err(line).starts_with("leases: --d"), "{line}");
    }
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    for (line, culprit) in [
        ("ad net x", "did you mean \"add\"?"),
        ("ADD net x", "did you mean \"add\"?"),
        ("delete net x", "unknown command \"delete\" for \"cnitool\": there are add, check, "),
        ("statsu net", "did you mean \"status\"?"),
        ("add", "add needs a network: usage: cnitool add "),
        ("del net", "del needs a network namespace: usage: cnitool del "),
        ("add net x y", "unexpected argument \"y\""),
        ("gc net x y --all", "unexpected argument \"y\""),
        ("networks x", "unexpected argument \"x\""),
        ("add --kepe x", "unknown option --kepe: did you mean --keep?"),
        ("add --frobnicate", "unknown option --frobnicate: see"),
        ("add -x", "unknown option -x"),
        ("add net x --all", "add has no option --all"),
        ("add net x --json", "add has no option --json"),
        ("add net x -i", "missing argument"),
        ("completion tcsh", "no completion for \"tcsh\""),
        ("completion", "completion needs a shell"),
        ("help ad", "did you mean \"add\"?"),
        ("add --json=x net y", "unexpected argument"),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(culprit), "{line}: {error}");
    }
}

/// As a script writes them whose variable is not set.
#[test]
fn empty_words_are_missing_ones() {
    for (words, culprit) in [
        (["add", "n", ""], "add needs a network namespace: usage: cnitool add "),
        (["add", "", "/ns"], "add needs a network: usage: cnitool add "),
        (["check", "n", ""], "check needs a network namespace"),
        (["del", "n", ""], "del needs a network namespace"),
        (["status", "", ""], "status needs a network"),
        (["gc", "", "--all"], "gc needs a network"),
    ] {
        let parsed = Invocation::parse(words.iter().map(OsString::from));
        let error = parsed.expect_err("a mistake").to_string();
        assert!(error.contains(culprit), "{words:?}: {error}");
    }
}

#[test]
fn help_is_where_it_is_looked_for() {
    let command = |line: &str| parse(line).expect(line).command;
    assert_eq!(command(""), Command::Usage);
    for line in ["--help", "-h", "help"] {
        assert_eq!(command(line), Command::Help { topic: None }, "{line}");
    }
    for line in ["help gc", "gc --help", "-h gc net", "gc --help --keep x"] {
        assert_eq!(command(line), Command::Help { topic: Some(Topic::Gc) }, "{line}");
    }
    assert_eq!(command("--version"), Command::OwnVersion);
    for topic in Topic::ALL {
        let page = help::text(Some(*topic));
        assert!(page.contains(help::usage(*topic)), "{page}");
        assert!(help::text(None).contains(topic.summary()));
        assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    }
}

#[test]
fn distances() {
    for (a, b, expected) in
        [("", "abc", 3), ("abc", "", 3), ("add", "add", 0), ("ad", "add", 1), ("dda", "add", 2)]
    {
        assert_eq!(distance(a, b), expected, "{a} {b}");
    }
}
