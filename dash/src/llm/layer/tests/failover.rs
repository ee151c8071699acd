use pretty_assertions::assert_eq;

use super::*;
use crate::llm::layer::Failover;
use crate::model::NanoUsd;

fn model(id: &str, provider: &str, usd: i64, window: u32) -> Arc<Model> {
    let (input, output) = (NanoUsd::from_usd(usd), NanoUsd::from_usd(2 * usd));
    let mut model = Model::priced(id, provider, input, output);
    model.context_window = window;
    Arc::new(model)
}

fn asked(model: &Arc<Model>) -> LlmRequest {
    let mut request = request("Hi");
    request.model = Arc::clone(model);
    request
}

#[tokio::test]
async fn the_provider_suite_passes() {
    passes_the_suite(true, |inner| {
        Arc::new(Failover::new("scripted", vec![(inner, request("").model)]))
    })
    .await;
}

#[tokio::test]
async fn the_next_model_answers_under_its_own_name_at_its_own_price() {
    use LlmErrorKind as Kind;
    let (dear, cheap) = (model("big", "a", 10, 0), model("small", "b", 1, 0));
    for kind in [
        Kind::Auth,
        Kind::NotFound,
        Kind::Quota,
        Kind::RateLimited,
        Kind::Overloaded,
        Kind::Server,
        Kind::Network,
    ] {
        let (a, _) = series("a", vec![ScriptedReply::failure(unbilled(kind))]);
        let (b, _) = series("b", vec![ScriptedReply::text("from b")]);
        let ladder = vec![(a, Arc::clone(&dear)), (b, Arc::clone(&cheap))];
        let ladder = Failover::new("ladder", ladder);
        let answer = ladder.stream(asked(&dear)).finish().await.unwrap();
        assert_eq!(
            (&*answer.provider, &*answer.model, &*answer.text()),
            ("b", "small", "from b")
        );
        assert_eq!(answer.cost, cheap.price.cost(answer.usage));
        assert!(answer.cost > NanoUsd::ZERO);
    }
}

#[tokio::test]
async fn what_may_have_cost_or_another_model_cannot_help_is_final() {
    use LlmErrorKind as Kind;
    let cut = LlmError::billed_unknown(Kind::StreamCut, "cut");
    for reply in [
        ScriptedReply::failure(unbilled(Kind::InvalidRequest)),
        ScriptedReply::failure(unbilled(Kind::ContentFilter)),
        ScriptedReply::failure(unbilled(Kind::Decode)),
        ScriptedReply::failure(unbilled(Kind::Cancelled)),
        ScriptedReply::failure(cut.clone()),
        ScriptedReply::text("one two").failing_midway(cut),
    ] {
        let (a, _) = series("a", vec![reply]);
        let (b, calls) = series("b", vec![ScriptedReply::text("from b")]);
        let free = model("m", "a", 0, 0);
        let ladder = Failover::new("l", vec![(a, Arc::clone(&free)), (b, Arc::clone(&free))]);
        let (_, message) = failure(&ladder, asked(&free)).await;
        assert_eq!(message.provider, "a");
        assert_eq!(calls.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_dearer_model_is_never_asked() {
    let (cheap, dear) = (model("small", "a", 1, 0), model("big", "b", 2, 0));
    let (a, _) = series(
        "a",
        vec![ScriptedReply::failure(unbilled(LlmErrorKind::Auth))],
    );
    let (b, calls) = series("b", vec![ScriptedReply::text("from b")]);
    let ladder = Failover::new("l", vec![(a, Arc::clone(&cheap)), (b, dear)]);
    let (error, _) = failure(&ladder, asked(&cheap)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(error.kind, LlmErrorKind::Auth);
    assert_eq!(
        error.message,
        "no model answered: a/small: Auth it is; b/big: skipped, it may cost more than was reserved"
    );
}

#[tokio::test]
async fn too_long_a_conversation_goes_only_to_a_window_known_to_be_larger() {
    for (first, second, third, answers) in [
        (1_000, 2_000, 0, Some("b")),
        (1_000, 1_000, 2_000, Some("c")),
        (1_000, 0, 0, None),
        (0, 2_000, 3_000, None),
    ] {
        let overflow = ScriptedReply::failure(unbilled(LlmErrorKind::ContextOverflow));
        let (a, _) = series("a", vec![overflow]);
        let (b, _) = series("b", vec![ScriptedReply::text("b")]);
        let (c, _) = series("c", vec![ScriptedReply::text("c")]);
        let small = model("m", "a", 0, first);
        let ladder = vec![
            (a, Arc::clone(&small)),
            (b, model("m", "b", 0, second)),
            (c, model("m", "c", 0, third)),
        ];
        let answer = Failover::new("l", ladder)
            .stream(asked(&small))
            .finish()
            .await;
        assert_eq!(answer.ok().map(|m| m.text()).as_deref(), answers);
    }
}

#[tokio::test]
async fn a_failure_that_may_pass_is_told_before_one_that_will_not() {
    let mut busy = unbilled(LlmErrorKind::RateLimited);
    busy.retry_after_ms = Some(9_000);
    let (a, _) = series("a", vec![ScriptedReply::failure(busy)]);
    let (b, _) = series(
        "b",
        vec![ScriptedReply::failure(unbilled(LlmErrorKind::Auth))],
    );
    let free = model("m", "a", 0, 0);
    let ladder = Failover::new("l", vec![(a, Arc::clone(&free)), (b, Arc::clone(&free))]);
    let (error, _) = failure(&ladder, asked(&free)).await;
    assert_eq!(
        (error.kind, error.retry_after_ms),
        (LlmErrorKind::RateLimited, Some(9_000))
    );
    let (error, message) = failure(&Failover::new("l", Vec::new()), asked(&free)).await;
    assert_eq!(
        (error.kind, &*message.provider),
        (LlmErrorKind::InvalidRequest, "l")
    );
}

#[tokio::test]
async fn the_output_limit_is_cut_to_what_the_rung_can_give() {
    let mut short = Model::free("short", "a");
    short.max_output_tokens = 3;
    let llm = ScriptedLlm::new("a", |request| {
        ScriptedReply::text(request.max_output_tokens.to_string())
    });
    let ladder = Failover::new("l", vec![(Arc::new(llm), Arc::new(short))]);
    let answer = ladder.stream(request("Hi")).finish().await.unwrap();
    assert_eq!(answer.text(), "3");
}
