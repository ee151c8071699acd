//! Refusals as servers word them.

use pretty_assertions::assert_eq;

use super::*;

#[test]
fn every_refusal_has_its_kind() {
    use LlmErrorKind as Kind;
    for (status, body, kind) in [
        (401, "Unauthorized", Kind::Auth),
        (403, "{}", Kind::Auth),
        (
            400,
            r#"{"error":{"code":400,"message":"API key not valid","details":[{"reason":"API_KEY_INVALID"}]}}"#,
            Kind::Auth,
        ),
        (
            404,
            r#"{"error":{"message":"no such model"}}"#,
            Kind::NotFound,
        ),
        (400, r#"{"error":"bad field"}"#, Kind::InvalidRequest),
        (
            422,
            r#"{"detail":[{"msg":"field required"}]}"#,
            Kind::InvalidRequest,
        ),
        (413, "", Kind::ContextOverflow),
        (
            400,
            r#"{"error":{"type":"exceed_context_size_error","message":"too big"}}"#,
            Kind::ContextOverflow,
        ),
        (
            500,
            r#"{"error":{"message":"the request exceeds the available context size"}}"#,
            Kind::ContextOverflow,
        ),
        (
            400,
            "This model's maximum context length is 8192 tokens",
            Kind::ContextOverflow,
        ),
        (
            429,
            r#"{"error":{"message":"Request too large for model: tokens per minute"}}"#,
            Kind::RateLimited,
        ),
        (
            429,
            r#"{"error":{"code":"insufficient_quota","message":"You exceeded your quota"}}"#,
            Kind::Quota,
        ),
        (
            429,
            r#"{"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
            Kind::Quota,
        ),
        (
            429,
            r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"quotaId":"RequestsPerDayPerProject"}]}}"#,
            Kind::Quota,
        ),
        (402, "pay", Kind::Quota),
        (
            400,
            r#"{"error":{"code":"content_filter","message":"no"}}"#,
            Kind::ContentFilter,
        ),
        (500, "", Kind::Server),
        (502, "<html>", Kind::Server),
        (408, "", Kind::Server),
        (409, "", Kind::Server),
        (503, "", Kind::Overloaded),
        (
            529,
            r#"{"error":{"type":"overloaded_error"}}"#,
            Kind::Overloaded,
        ),
        (307, "", Kind::InvalidRequest),
    ] {
        assert_eq!(
            ServerFailure::read(Some(status), body).kind(),
            kind,
            "{status} {body}"
        );
    }
}

/// A pattern, a status that would not give the kind by itself, and a body.
type Said = (&'static str, Option<u16>, &'static str);

/// Every pattern of every list in words that servers send.
#[rustfmt::skip]
const SAID: &[(&[&str], LlmErrorKind, &[Said])] = &[
    (MONEY, LlmErrorKind::Quota, &[
        ("insufficient_quota", Some(429), r#"{"error":{"message":"You exceeded your current quota, please check your plan.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#),
        ("credit_balance_exhausted", Some(403), r#"{"error":{"code":"credit_balance_exhausted","message":"Add funds to go on."}}"#),
        ("credit balance is too low", Some(400), r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#),
        ("enforced_spend_limit_reached", Some(429), r#"{"error":{"message":"Stopped.","details":{"error_code":"enforced_spend_limit_reached"}}}"#),
        ("billing_hard_limit_reached", Some(400), r#"{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been reached"}}"#),
        ("billing_not_active", Some(429), r#"{"error":{"code":"billing_not_active","message":"Your account is not active."}}"#),
        ("billing_error", None, r#"{"type":"error","error":{"type":"billing_error","message":"Your account needs a payment."}}"#),
        ("insufficient balance", None, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#),
        ("insufficient credits", Some(400), r#"{"error":{"code":400,"message":"Insufficient credits. Add more using the settings."}}"#),
        ("perday", Some(429), r#"{"error":{"code":429,"message":"Quota exceeded","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}"#),
    ]),
    (THROTTLED, LlmErrorKind::RateLimited, &[
        ("rate limit", None, r#"{"error":{"message":"Rate limit reached for m on tokens per min"}}"#),
        ("rate_limit", None, r#"{"error":{"type":"rate_limit_error","message":"Slow down"}}"#),
        ("resource_exhausted", None, r#"{"error":{"message":"Too fast.","status":"RESOURCE_EXHAUSTED"}}"#),
        ("ratelimit", None, r#"{"error":"RateLimitError: try again"}"#),
        ("too many requests", None, "Too Many Requests"),
        ("throttling", None, r#"{"error":{"type":"ThrottlingException","message":"Wait, please"}}"#),
        ("throttled", None, r#"{"message":"Your request was throttled."}"#),
    ]),
    (OVERFLOW, LlmErrorKind::ContextOverflow, &[
        ("prompt is too long", Some(400), r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 204800 tokens > 200000 maximum"}}"#),
        ("request_too_large", Some(400), r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#),
        ("exceeds the context window", None, r#"{"message":"Your input exceeds the context window of this model."}"#),
        ("maximum context length", Some(400), r#"{"object":"error","message":"This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."}"#),
        ("exceeds the maximum number of tokens", Some(400), r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."}}"#),
        ("maximum prompt length is", Some(400), r#"{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 131072 but the request contains 200000 tokens."}"#),
        ("reduce the length of the messages", Some(400), r#"{"error":{"message":"Please reduce the length of the messages or completion.","type":"invalid_request_error"}}"#),
        ("exceeds the available context size", Some(500), r#"{"error":{"message":"the request exceeds the available context size, try increasing it","type":"server_error"}}"#),
        ("exceed_context_size_error", Some(400), r#"{"error":{"code":400,"message":"too many tokens","type":"exceed_context_size_error","n_ctx":2048}}"#),
        ("greater than the context length", Some(400), r#"{"error":"The number of tokens to keep from the initial prompt is greater than the context length"}"#),
        ("context window exceeds limit", Some(400), r#"{"error":{"message":"invalid params, context window exceeds limit"}}"#),
        ("context_length_exceeded", Some(400), r#"{"error":{"code":"context_length_exceeded","message":"Too many tokens."}}"#),
        ("token limit exceeded", Some(400), r#"{"error":{"message":"Input token limit exceeded"}}"#),
        ("too large for model", Some(400), r#"{"message":"Prompt contains 40000 tokens, too large for model with 32768 maximum"}"#),
    ]),
    (WRONG_KEY, LlmErrorKind::Auth, &[
        ("invalid_api_key", Some(400), r#"{"error":{"code":"invalid_api_key","message":"Wrong key"}}"#),
        ("api_key_invalid", Some(400), r#"{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}"#),
        ("authentication_error", None, r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#),
        ("incorrect api key", Some(400), r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided."}"#),
    ]),
    (FILTERED, LlmErrorKind::ContentFilter, &[
        ("content_filter", Some(400), r#"{"error":{"code":"content_filter","message":"The prompt was filtered"}}"#),
        ("content_policy_violation", Some(400), r#"{"error":{"code":"content_policy_violation","message":"Not allowed"}}"#),
    ]),
];

#[test]
fn every_pattern_gives_its_kind_by_itself() {
    let all: Vec<&str> = SAID.iter().flat_map(|(list, ..)| *list).copied().collect();
    for (list, kind, said) in SAID {
        let told: Vec<&str> = said.iter().map(|(pattern, ..)| *pattern).collect();
        assert_eq!(told, *list, "every pattern of a list is here");
        for (pattern, status, body) in *said {
            let lower = body.to_lowercase();
            let found = all.iter().filter(|other| lower.contains(**other));
            let found: Vec<_> = found.collect();
            assert_eq!(found, [pattern], "no other pattern helps: {body}");
            let without = lower.replace(pattern, "…");
            let kind_of = |body: &str| ServerFailure::read(*status, body).kind();
            assert_eq!(kind_of(body), *kind, "{status:?} {body}");
            assert_ne!(kind_of(&without), *kind, "{status:?} {without}");
        }
    }
}

#[test]
fn the_words_are_found_in_every_shape() {
    for body in [
        r#"{"error":{"message":"boom","type":"x","code":null}}"#,
        r#"{"error":"boom"}"#,
        r#"{"code":"x","error":"boom"}"#,
        r#"{"detail":"boom"}"#,
        r#"{"object":"error","message":"boom","code":40001}"#,
        r#"{"message":"boom"}"#,
        r#"[{"error":{"message":"boom"}}]"#,
        r#""boom""#,
        " boom\n",
    ] {
        assert_eq!(ServerFailure::read(None, body).message, "boom", "{body}");
    }
}

#[test]
fn a_wait_is_read_from_words() {
    for (body, wait) in [
        (
            r#"{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"22s"}]}}"#,
            Some(22_000),
        ),
        (
            r#"{"error":{"message":"Rate limit reached. Please try again in 1.3s."}}"#,
            Some(1_300),
        ),
        ("Please try again in 20ms.", Some(20)),
        ("Try again in 2m", Some(120_000)),
        ("try again later", None),
    ] {
        assert_eq!(
            ServerFailure::read(Some(429), body).retry_after_ms(),
            wait,
            "{body}"
        );
    }
}

#[test]
fn a_web_page_is_told_by_its_words() {
    let page = "<!DOCTYPE html>\n<html><head><style>p {x}</style><title>502 Bad Gateway</title>\
        <script>let a = 1 < 2;</script></head><!-- hi --><body><h1>Sorry</h1></body></html>";
    let failure = ServerFailure::read(Some(502), page);
    assert_eq!(
        failure.shown(),
        "the server answered 502: 502 Bad Gateway Sorry"
    );
    assert_eq!(failure.kind(), LlmErrorKind::Server);
}

#[test]
fn keys_are_removed_and_long_texts_cut() {
    let text = shown("Incorrect API key provided: sk-proj-abcdef123456. Bearer abcdefghijkl");
    assert_eq!(text, "Incorrect API key provided: [redacted] [redacted]");
    assert_eq!(
        shown(&"é".repeat(9_000)).chars().count(),
        SHOWN_CHARS_MAX + 1
    );
}
