use super::*;
use crate::Success;

/// Does nothing, well.
struct Recorder(&'static [Version]);

impl Plugin for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn versions(&self) -> &'static [Version] {
        self.0
    }

    fn add(&self, _: &Request) -> Result<Success> {
        Ok(Success::default())
    }

    fn check(&self, _: &Request) -> Result<()> {
        Ok(())
    }

    fn del(&self, _: &Request) -> Result<()> {
        Err(Error::internal("del ran"))
    }

    fn gc(&self, _: &Network) -> Result<()> {
        Ok(())
    }

    fn status(&self, _: &Network) -> Result<()> {
        Err(Error::not_available("full"))
    }
}

static ALL: Recorder = Recorder(Version::ALL);
static OLD: Recorder = Recorder(&[Version::V0_3_0, Version::V0_3_1]);

fn environment(command: &str) -> Environment {
    Environment {
        command: command.into(),
        container_id: "c1".into(),
        netns: "/nonexistent/netns".into(),
        ifname: "eth0".into(),
        path: "/nonexistent".into(),
        ..Environment::default()
    }
}

fn call(plugin: &'static dyn Plugin, environment: &Environment, stdin: &str) -> Result<Answer> {
    serve(plugin, &[], environment, &mut stdin.as_bytes(), None)
}

fn code(plugin: &'static dyn Plugin, environment: &Environment, stdin: &str) -> (u32, String) {
    let error = call(plugin, environment, stdin).expect_err("must fail");
    (error.code().0, error.to_string())
}

fn conf(version: &str) -> String {
    format!(r#"{{"name":"n","type":"recorder","cniVersion":"{version}"}}"#)
}

#[test]
fn missing_variables_are_listed_in_order_and_an_invalid_one_comes_first() {
    let none = Environment { command: "ADD".into(), ..Environment::default() };
    let all = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
    assert_eq!(code(&ALL, &none, ""), (4, all.into()));
    let del = Environment { command: "DEL".into(), ..Environment::default() };
    assert_eq!(
        code(&ALL, &del, ""),
        (4, "required env variables [CNI_CONTAINERID,CNI_IFNAME,CNI_PATH] missing".into())
    );
    let gc = Environment { command: "GC".into(), ..Environment::default() };
    assert_eq!(code(&ALL, &gc, ""), (4, "required env variables [CNI_PATH] missing".into()));
    let bad =
        Environment { container_id: String::new(), ifname: "a/b".into(), ..environment("ADD") };
    assert_eq!(
        code(&ALL, &bad, ""),
        (4, "interface name contains / or : or whitespace characters".into())
    );
    // not required, so not looked at
    let odd = Environment { container_id: "!".into(), ifname: "x".repeat(30), ..environment("GC") };
    assert_eq!(call(&ALL, &odd, &conf("1.1.0")), Ok(Answer::Nothing));
}

#[test]
fn no_command_is_the_about_text_and_version_reads_no_stdin() {
    assert_eq!(call(&ALL, &Environment::default(), ""), Ok(Answer::About));
    let version = Environment { command: "VERSION".into(), ..Environment::default() };
    let reply = r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1"]}"#.to_owned() + "\n";
    assert_eq!(call(&OLD, &version, "not json"), Ok(Answer::Document(reply.into_bytes())));
}

#[test]
fn the_document_is_judged_before_the_command() {
    let foo = Environment { command: "FOO".into(), ..Environment::default() };
    assert_eq!(code(&ALL, &foo, "").0, 6);
    assert_eq!(code(&ALL, &foo, "{}"), (7, "missing network name".into()));
    assert_eq!(code(&ALL, &foo, r#"{"name":"n"}"#), (4, "unknown CNI_COMMAND: FOO".into()));
    assert_eq!(code(&ALL, &environment("add"), r#"{"name":"n"}"#).0, 4);
    let add = environment("ADD");
    for (stdin, expected) in [
        ("", 6),
        ("null", 7),
        ("[]", 6),
        (r#"{"name":5}"#, 6),
        (r#"{"name":"a/b"}"#, 7),
        (r#"{"name":"n","cniVersion":5}"#, 6),
        (r#"{"name":"n","cniVersion":"9.9.9"}"#, 1),
        (r#"{"name":"n","cniVersion":"1.1"}"#, 1),
        (r#"{"name":"n"} x"#, 6),
    ] {
        assert_eq!(code(&ALL, &add, stdin).0, expected, "{stdin}");
    }
}

#[test]
fn versions_gate_the_verbs() {
    let details =
        "incompatible CNI versions; config is \"1.0.0\", plugin supports [\"0.3.0\" \"0.3.1\"]";
    assert_eq!(code(&OLD, &environment("ADD"), &conf("1.0.0")), (1, details.into()));
    // an absent version is 0.1.0
    assert!(code(&OLD, &environment("ADD"), r#"{"name":"n"}"#).1.contains("config is \"0.1.0\""));
    for (verb, version, text) in [
        ("CHECK", "0.3.1", "config version does not allow CHECK"),
        ("CHECK", "1.2.0", "plugin version does not allow CHECK"),
        ("GC", "1.0.0", "config version does not allow GC"),
        ("STATUS", "1.0.0", "config version does not allow STATUS"),
        ("STATUS", "2", "plugin version does not allow STATUS"),
        ("GC", "1.1", "incompatible CNI versions; config is \"1.1\""),
    ] {
        let (code, msg) = code(&ALL, &environment(verb), &conf(version));
        assert_eq!(code, 1);
        assert!(msg.starts_with(text), "{verb} {version}: {msg}");
    }
    assert_eq!(
        code(&OLD, &environment("CHECK"), &conf("0.4.0")).1,
        "plugin version does not allow CHECK"
    );
    assert_eq!(code(&ALL, &environment("CHECK"), &conf("abc")).0, 6);
    assert_eq!(call(&ALL, &environment("CHECK"), &conf("0.4.0")), Ok(Answer::Nothing));
    assert_eq!(code(&ALL, &environment("STATUS"), &conf("1.1.0")), (50, "full".into()));
}

#[test]
fn our_own_namespace_is_refused_before_anything_is_done() {
    let own = |verb| Environment { netns: "/proc/thread-self/ns/net".into(), ..environment(verb) };
    assert_eq!(code(&ALL, &own("ADD"), &conf("1.0.0")).0, 8);
    assert_eq!(code(&ALL, &own("DEL"), &conf("1.0.0")).0, 8);
    assert_eq!(call(&ALL, &own("CHECK"), &conf("1.0.0")), Ok(Answer::Nothing));
    let overridden = Environment { netns_override: true, ..own("DEL") };
    assert_eq!(code(&ALL, &overridden, &conf("1.0.0")).1, "del ran");
}

#[test]
fn a_result_that_cannot_be_told_is_an_error() {
    let (code, msg) = code(&ALL, &environment("ADD"), &conf("0.2.0"));
    assert_eq!(code, 999);
    assert!(msg.contains("no address"), "{msg}");
}

#[test]
fn a_configuration_without_end_is_cut_off() {
    let mut endless = io::repeat(b' ');
    let error = serve(&ALL, &[], &environment("ADD"), &mut endless, None).expect_err("too large");
    assert_eq!((error.code(), error.msg().contains("larger than 16 MiB")), (Code::DECODE, true));
}
