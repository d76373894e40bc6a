use super::*;
use crate::service::request::{Tenant, TextOptions};

fn validator() -> Validator {
    Validator {
        max_best_of: 2,
        max_input_tokens: 100,
        max_total_tokens: 120,
        vocab_size: 300,
        eos_tokens: Arc::from([7]),
        newline: Some(10),
        watermark: Watermark { gamma: 0.5, delta: 2.0 },
        disable_grammar_support: true,
    }
}

fn request(change: impl FnOnce(&mut Parameters)) -> Request {
    let mut parameters = Parameters::new(MaxNewTokens::Given(10));
    change(&mut parameters);
    Request {
        prompt: Prompt::Text("hello".into()),
        truncate: None,
        context: None,
        parameters,
        max_top_n_tokens: 5,
        max_stop_sequences: 4,
        text: TextOptions { keep_stop: true, special_pieces: true },
        marks: Vec::new(),
        tenant: Tenant(9),
    }
}

fn refused(change: impl FnOnce(&mut Parameters)) -> String {
    validator().check_parameters(&request(change)).unwrap_err().to_string()
}

fn accepted(change: impl FnOnce(&mut Parameters)) {
    validator().check_parameters(&request(change)).unwrap();
}

/// The rows of reference/tgi.md §2b, with its texts.
#[test]
fn rules_1_to_13_have_tgis_texts() {
    let rows: Vec<(String, &str)> = vec![
        (refused(|p| p.best_of = Some(2)), "you must use sampling when `best_of` is > 1"),
        (refused(|p| p.temperature = Some(0.0)), "`temperature` must be strictly positive"),
        (refused(|p| p.temperature = Some(f32::INFINITY)), "`temperature` must be strictly positive"),
        (refused(|p| p.repetition_penalty = Some(-0.1)), "`repetition_penalty` must be strictly positive"),
        (
            refused(|p| p.frequency_penalty = Some(Frequency::Relative(2.5))),
            "`frequency_penalty` must be >= -2.0 and <= 2.0",
        ),
        (refused(|p| p.top_p = Some(1.0)), "`top_p` must be > 0.0 and < 1.0"),
        (refused(|p| p.typical_p = Some(0.0)), "`typical_p` must be > 0.0 and < 1.0"),
        (refused(|p| p.top_k = Some(0)), "`top_k` must be strictly positive"),
        (
            refused(|p| p.max_new_tokens = MaxNewTokens::Given(0)),
            "`max_new_tokens` must be strictly positive",
        ),
        (refused(|p| p.stop = vec!["a".into(); 5]), "`stop` supports up to 4 stop sequences. Given: 5"),
        (
            refused(|p| (p.best_of, p.do_sample, p.seed) = (Some(2), true, Some(1))),
            "`seed` must not be set when `best_of` > 1",
        ),
        (refused(|p| p.top_n_tokens = 6), "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ];
    for (got, want) in rows {
        assert_eq!(got, want);
    }
    let mut empty = request(|_| ());
    empty.prompt = Prompt::Text(String::new());
    assert_eq!(validator().check_parameters(&empty).unwrap_err().to_string(), "`inputs` cannot be empty");
    for given in [0, 101] {
        let mut truncated = request(|_| ());
        truncated.truncate = Some(given);
        assert_eq!(
            validator().check_parameters(&truncated).unwrap_err().to_string(),
            format!("`truncate` must be strictly positive and less than 100. Given: {given}")
        );
    }
}

#[test]
fn values_at_the_bounds_are_accepted() {
    accepted(|p| (p.best_of, p.do_sample) = (Some(2), true));
    accepted(|p| p.best_of = Some(0));
    accepted(|p| p.frequency_penalty = Some(Frequency::Count(-2.0)));
    accepted(|p| (p.top_p, p.typical_p) = (Some(0.999), Some(0.001)));
    accepted(|p| (p.top_k, p.top_n_tokens) = (Some(1), 5));
    accepted(|p| p.stop = vec!["a".into(); 4]);
    accepted(|p| (p.choices, p.presence_penalty, p.min_p) = (8, Some(2.0), Some(1.0)));
    accepted(|p| p.logit_bias = vec![(299, -100.0), (0, 100.0)]);
}

#[test]
fn the_first_broken_rule_is_reported() {
    assert_eq!(
        refused(|p| (p.temperature, p.top_k, p.stop) = (Some(-1.0), Some(-1), vec!["a".into(); 9])),
        "`temperature` must be strictly positive"
    );
}

#[test]
fn what_tgi_does_not_have_is_bounded() {
    assert_eq!(refused(|p| p.min_p = Some(1.5)), "`min_p` must be >= 0.0 and <= 1.0. Given: 1.5");
    assert_eq!(
        refused(|p| p.presence_penalty = Some(-3.0)),
        "`presence_penalty` must be >= -2.0 and <= 2.0. Given: -3"
    );
    assert_eq!(refused(|p| p.choices = 1_000_000), "`n` must be >= 1 and <= 8. Given: 1000000");
    assert_eq!(refused(|p| p.min_new_tokens = 11), "`min_tokens` must be >= 0 and <= 10. Given: 11");
    assert_eq!(
        refused(|p| p.logit_bias = vec![(1, 0.0); 1025]),
        "`logit_bias` supports up to 1024 entries. Given: 1025"
    );
    for token in [-1, 300, 1 << 32, i64::MAX] {
        assert_eq!(
            refused(|p| p.logit_bias = vec![(token, 1.0)]),
            format!("`logit_bias`: token id {token} is not below the vocabulary size 300")
        );
    }
}

#[test]
fn best_of_and_streams_are_checked_first() {
    let validator = validator();
    let text = |result: Result<(), ValidationError>| result.unwrap_err().to_string();
    let best_of = |n| request(|p| p.best_of = Some(n)).parameters;
    assert_eq!(text(validator.check_best_of(&best_of(3))), "`best_of` must be > 0 and <= 2. Given: 3");
    assert!(validator.check_best_of(&best_of(0)).is_ok());
    let one = Validator { max_best_of: 1, ..validator.clone() };
    assert_eq!(text(one.check_best_of(&best_of(2))), "`best_of` != 1 is not allowed for this endpoint");
    for n in [0, 2] {
        assert_eq!(
            text(validator.check_streaming(&best_of(n))),
            "`best_of` != 1 is not supported when streaming tokens"
        );
    }
    assert_eq!(
        text(validator.check_streaming(&request(|p| p.prompt_logprobs = true).parameters)),
        "`decoder_input_details` == true is not supported when streaming tokens"
    );
}

#[test]
fn lengths_follow_tgis_arithmetic() {
    let check = |max: MaxNewTokens, input: usize| {
        validator().check_lengths(&request(|p| p.max_new_tokens = max).parameters, input)
    };
    assert_eq!(check(MaxNewTokens::Given(20), 100), Ok(20));
    assert_eq!(
        check(MaxNewTokens::Given(21), 100).unwrap_err().to_string(),
        "`inputs` tokens + `max_new_tokens` must be <= 120. Given: 100 `inputs` tokens and 21 `max_new_tokens`"
    );
    assert_eq!(
        check(MaxNewTokens::Given(1), 101).unwrap_err().to_string(),
        "`inputs` must have less than 100 tokens. Given: 101"
    );
    assert_eq!(check(MaxNewTokens::Default(100), 90), Ok(30));
    assert_eq!(check(MaxNewTokens::Open, 90), Ok(30));
    let wide = Validator { max_total_tokens: 2000, ..validator() };
    assert_eq!(
        wide.check_lengths(&request(|p| p.max_new_tokens = MaxNewTokens::Given(100_000)).parameters, 50),
        Ok(1950)
    );
    let grammar = serde_json::json!({"type": "regex", "value": "a"});
    let constraint = crate::service::tgi_grammar(&grammar, crate::service::Field::Grammar).unwrap();
    let constrained = request(|p| p.constraint = Some(constraint)).parameters;
    assert_eq!(
        validator().check_lengths(&constrained, 5).unwrap_err().to_string(),
        "grammar is not supported"
    );
    let allowed = Validator { disable_grammar_support: false, ..validator() };
    assert_eq!(allowed.check_lengths(&constrained, 5), Ok(10));
}

#[test]
fn greedy_and_sampled_requests_are_lowered() {
    let validator = validator();
    let lower = |request: &Request| validator.lower(RequestId(3), request, Arc::from([1, 2]), 10);
    let greedy = lower(&request(|p| p.seed = Some(5)));
    assert_eq!((greedy.sampling.selection, greedy.n), (Selection::Greedy, 1));
    assert_eq!(&*greedy.stop.stop_tokens, [7]);
    let sampled = lower(&request(|p| {
        (p.top_p, p.seed, p.ignore_eos, p.best_of, p.watermark) = (Some(0.5), Some(5), true, Some(2), true);
    }));
    assert_eq!((sampled.sampling.selection, sampled.n), (Selection::Random { seed: 5 }, 2));
    assert_eq!((sampled.sampling.top_p, sampled.sampling.temperature), (0.5, 1.0));
    assert_eq!(sampled.sampling.watermark, Some(Watermark { gamma: 0.5, delta: 2.0 }));
    assert!(sampled.stop.stop_tokens.is_empty());
    assert_eq!(sampled.cache_salt, 9);
}
