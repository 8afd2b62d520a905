use super::*;
use crate::Code;

fn log(wanted: &str, level: &'static str) -> Log {
    Log::open(wanted.into(), "bridge", |name| {
        let value = match name {
            "CNI_LOG_LEVEL" => level,
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c1",
            "CNI_IFNAME" => "eth0",
            "CNI_NETNS" => "/run/netns/a \"quoted\" name",
            "TRACEPARENT" => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            other => panic!("{other} is no business of a log's"),
        };
        value.into()
    })
}

fn failed(error: &Error) -> Done<'_> {
    Done {
        level: Level::Error,
        verb: "ADD",
        plugin: "bridge",
        caller: "",
        code: error.code().0,
        result: "",
        error: error.to_string(),
        duration: Duration::from_micros(1234),
    }
}

#[test]
fn a_record_is_a_line_of_json() {
    let log = log("/x", "info");
    log.network("net");
    let error = Error::new(Code(7), "two\nlines \\ \u{1}").with_details("x".repeat(TEXT_LIMIT));
    let line = String::from_utf8(log.json(&failed(&error))).expect("UTF-8");
    assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
    assert!(line.len() < TEXT_LIMIT + 500);
    let record: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    for (key, text) in [
        ("verb", "ADD"),
        ("level", "error"),
        ("network", "net"),
        ("netns", "/run/netns/a \"quoted\" name"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("span_id", "b7ad6b7169203331"),
    ] {
        assert_eq!(record[key], text, "{line}");
    }
    assert!(record["error"].as_str().is_some_and(|e| e.starts_with("two\nlines \\ \u{1}; xxx")));
    assert_eq!((&record["code"], &record["duration_us"]), (&7.into(), &1234.into()));
    assert_eq!(record["pid"], std::process::id());
    assert_eq!(record.get("caller"), None);
}

#[test]
fn a_record_of_the_journal_has_lengths() {
    let log = log("journald", "info");
    let record = log.journal(&failed(&Error::internal("two\nlines")));
    let mut rest = record.as_slice();
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let at = rest.iter().position(|b| *b == b'\n').expect("a name");
        let length = u64::from_le_bytes(rest[at + 1..at + 9].try_into().expect("8 bytes")) as usize;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        fields.push((text(&rest[..at]), text(&rest[at + 9..at + 9 + length])));
        assert_eq!(rest[at + 9 + length], b'\n');
        rest = &rest[at + 10 + length..];
    }
    let get = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(get("MESSAGE"), Some("bridge ADD c1 eth0: two\nlines in 1.234 ms"));
    assert_eq!(get("PRIORITY"), Some("3"));
    assert_eq!(get("CNI_CODE"), Some("999"));
    assert_eq!(get("CNI_TRACE_ID"), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(get("CNI_NETWORK"), None);
}

#[test]
fn levels_stand_in_an_order() {
    for (text, level) in [("error", Level::Error), ("debug", Level::Debug), ("loud", Level::Info)] {
        assert_eq!(log("/x", text).level, level);
    }
    assert!(Level::Error < Level::Info && Level::Info < Level::Debug);
}

#[test]
fn only_a_valid_trace_is_told_of() {
    let (id, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let trace = Some(Trace { id: id.into(), span: span.into() });
    assert_eq!(Trace::parse(&format!("00-{id}-{span}-00")), trace);
    assert_eq!(Trace::parse(&format!("01-{id}-{span}-00-more")), trace);
    for bad in [
        String::new(),
        format!("00-{id}-{span}"),
        format!("00-{id}-{span}-0g"),
        format!("ff-{id}-{span}-00"),
        format!("00-{id}-{span}-00-more"),
        format!("00-{}-{span}-00", id.to_uppercase()),
        format!("00-{}-{span}-00", "0".repeat(32)),
        format!("00-{id}-{}-00", "0".repeat(16)),
    ] {
        assert_eq!(Trace::parse(&bad), None, "{bad}");
    }
}

#[test]
fn times_are_dates() {
    for (seconds, text) in [
        (1, "1970-01-01T00:00:01.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(date(Duration::from_secs(seconds)), text, "{seconds}");
    }
}
