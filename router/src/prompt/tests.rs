//! Tests of the routing key.

use proptest::prelude::*;

use super::*;

/// The text of the key, which is checked to be made of it.
fn key(body: &str) -> String {
    let text = members(body.as_bytes(), None).map(|(fields, _)| fields.pieces().collect::<Vec<_>>().concat());
    let text = text.unwrap_or_default();
    assert_eq!(scan(body.as_bytes(), None).key, Key::new(&text));
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_prompt_of_every_endpoint_is_found() {
    assert_eq!(key(r#"{"sampling_params": {"text": "no"}, "text": "Hello"}"#), "Hello");
    assert_eq!(key(r#"{"text": ["a b", "c"]}"#), r#""a b", "c""#);
    assert_eq!(key(r#"{"model": "m", "prompt": "Once"}"#), "Once");
    assert_eq!(key(r#"{"prompt": [1, 2, 3]}"#), "1, 2, 3");
    assert_eq!(key(r#"{"input_ids": [ 7,8 ]}"#), "7,8");
    assert_eq!(key(r#"{"model": "m", "input": "embed me"}"#), "embed me");
}

#[test]
fn a_string_counts_as_it_stands() {
    let body = r#" { "stop" : "\"text\": \"x\"" , "text" : "say \"hi\"\\ \u00e9" } "#;
    assert_eq!(key(body), r#"say \"hi\"\\ \u00e9"#);
    assert_eq!(key(r#"{"text": "\\", "input": "\"no"}"#), r"\\");
}

#[test]
fn model_stream_and_affinity_are_found() {
    let scanned = |body: &'static str| scan(body.as_bytes(), Some("user"));
    let found = scanned(r#"{"model": "org/m", "user": "a\"b", "stream": true, "prompt": "x"}"#);
    assert_eq!((found.model.as_deref(), found.affinity, found.stream), (Some("org/m"), Some(&br#"a\"b"#[..]), true));
    assert!(matches!(found.model, Some(Cow::Borrowed(_))));
    let found = scanned(r#"{"model": "caf\u00e9 \"x\"", "user": -17.5, "stream": false}"#);
    assert_eq!(
        (found.model.as_deref(), found.affinity, found.stream),
        (Some("café \"x\""), Some(&b"-17.5"[..]), false)
    );
    let found = scanned(r#"{"model": 7, "user": null, "stream": "true", "options": {"user": "u", "stream": true}}"#);
    assert_eq!((found.model, found.affinity, found.stream), (None, None, false));
    assert_eq!(scan(br#"{"user": "u"}"#, None).affinity, None);
    assert_eq!(scan(br#"{"prompt": "p"}"#, Some("prompt")).affinity, Some(&b"p"[..]));
    let broken = scanned(r#"{"model": "m", "user": "u", "stream": true, "prompt": "x" "y"}"#);
    assert_eq!((broken.model, broken.affinity, broken.stream), (None, None, false));
    assert_eq!(scanned(r#"{"model": "\u12"}"#).model, None);
}

#[test]
fn the_last_of_several_members_of_one_name_counts() {
    assert_eq!(key(r#"{"text": "a", "text": "b"}"#), "b");
    assert_eq!(key(r#"{"messages": [{"role": "user", "content": "a"}], "messages": null, "text": "b"}"#), "b");
    assert_eq!(key(r#"{"messages": [{"content": "a"}], "messages": [{"content": "b", "content": "c"}]}"#), "\x1fc\x1e");
}

#[test]
fn messages_are_laid_out_as_the_template_does() {
    let body = r#"{"messages": [{"role": "system", "content": "Be brief."}, {"content": "Hi", "name": "x", "role": "user"}],
        "tools": [{"type": "function"}]}"#;
    assert_eq!(key(body), "[{\"type\": \"function\"}]\x1esystem\x1fBe brief.\x1euser\x1fHi\x1e");
}

#[test]
fn a_longer_conversation_begins_with_the_shorter_one() {
    let first = key(r#"{"messages":[{"role":"user","content":"Hi"}]}"#);
    let later = r#"{"stream":true,"messages":[ {"content":"Hi","role":"user"} ,{"role":"assistant","content":null,
        "tool_calls":[{"id":"1"}]},{"role":"user","content":[{"type":"text","text":"And"},{"type":"text","text":" now?"}]}]}"#;
    let later = key(later);
    assert!(later.starts_with(&first), "{later:?}");
    assert!(later.ends_with("assistant\x1f[{\"id\":\"1\"}]\x1euser\x1fAnd now?\x1e"), "{later:?}");
}

#[test]
fn images_count_by_what_they_are_and_not_by_their_bytes() {
    let with = |image: &str| {
        let part = format!(r#"{{"type":"image_url","image_url":{{"url":"data:{image}"}}}}"#);
        let body = format!(r#"{{"messages":[{{"role":"user","content":[{part},{{"type":"text","text":"what?"}}]}}]}}"#);
        key(&body)
    };
    let (cat, dog) = (with(&"c".repeat(100_000)), with(&"d".repeat(100_000)));
    assert_eq!(cat, with(&"c".repeat(100_000)));
    assert_ne!(cat, dog);
    assert!(cat.len() < 100);
}

#[test]
fn what_is_no_json_object_with_a_prompt_has_an_empty_key() {
    for body in [
        "",
        "null",
        "[1]",
        "{",
        "{}",
        r#"{"text"}"#,
        r#"{"text": "open"#,
        r#"{"text": "a" "b": 1}"#,
        r#"{"text": 5}"#,
        "text",
        "\u{0}",
    ] {
        assert_eq!(key(body), "", "{body}");
    }
    assert_eq!(key(r#"{"text": "a", "broken": }"#), "");
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert_eq!(key(&format!(r#"{{"x": {deep}, "text": "found"}}"#)), "found");
    assert_eq!(key(&format!(r#"{{"text": "lost", "x": {}"#, "[{".repeat(1_000_000))), "");
    let nested = format!(r#"{{"messages": [{{"role": "user", "content": {deep}}}]}}"#);
    assert_eq!(key(&nested), "user\x1f\x1e");
}

fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        r#"["\\\[\]\{\},:a]{0,8}"#.prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::hash_map(".{0,6}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn the_text_is_found_among_any_other_fields(other in arbitrary_json(), text in ".{0,40}", pretty: bool) {
        let object = serde_json::json!({"a": other.clone(), "text": text, "z": other});
        let body = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
        let quoted = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(key(&body), &quoted[1..quoted.len() - 1]);
    }

    #[test]
    fn no_input_panics(body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\ tex".to_vec())], 0..200)) {
        scan(&body, Some("t"));
    }
}
