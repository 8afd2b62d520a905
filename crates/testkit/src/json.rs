//! Small steps on JSON that many tests need.

use serde_json::{Value, json};

/// The configuration with a previous result, as the runtime gives it to CHECK,
/// DEL and chained plugins.
#[must_use]
pub fn with_previous_result(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

/// The value without the keys that differ from one reading to the next, at
/// every level, and without `null`, empty lists and empty objects.
pub(crate) fn without_keys(value: &Value, drop_key: &dyn Fn(&str) -> bool) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(key, _)| !drop_key(key))
            .map(|(key, value)| (key.clone(), without_keys(value, drop_key)))
            .filter(|(_, value)| !is_empty(value))
            .collect(),
        Value::Array(list) => list.iter().map(|item| without_keys(item, drop_key)).collect(),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    *value == Value::Null || *value == json!([]) || *value == json!({})
}

/// The list of a JSON text that `ip`, `bridge` and `tc` print; nothing printed
/// is an empty list.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Value>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match serde_json::from_str(text) {
        // With nothing to show iproute2 prints `[{}]` for some objects.
        Ok(Value::Array(list)) => Ok(list.into_iter().filter(|v| !is_empty(v)).collect()),
        Ok(other) => Ok(vec![other]),
        Err(e) => Err(format!("not JSON: {e}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volatile_keys_go_at_every_level() {
        let value = json!({"a": 1, "timer": 2, "b": {"timer": 3}, "c": [{"timer": 4, "d": 5}]});
        let kept = without_keys(&value, &|key| key == "timer");
        assert_eq!(kept, json!({"a": 1, "c": [{"d": 5}]}));
    }

    #[test]
    fn an_empty_answer_is_an_empty_list() {
        assert_eq!(parse_list("").expect("valid"), Vec::<Value>::new());
        assert_eq!(parse_list("[{}]").expect("valid"), Vec::<Value>::new());
        assert!(parse_list("{").is_err());
    }
}
