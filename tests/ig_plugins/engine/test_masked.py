def test_masked_llama_equals_the_full_forward(make_model, walk_everything):
    walk_everything(make_model("llama", num_key_value_heads=2), backend="masked")


def test_masked_body_without_a_head_has_states_and_no_logits(make_model, walk_everything):
    walk_everything(make_model("llama", bare=True), backend="masked")
