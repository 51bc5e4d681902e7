//! What passes between this plugin and its provider, as recorded.

#[test]
fn recorded_exchanges() {
    palisade_provider::testing::play_all::<github::GitHub>(concat!(env!("CARGO_MANIFEST_DIR"), "/exchanges"));
}
