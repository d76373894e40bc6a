"""Whatever the model would rather write, what it finishes is what was asked for."""

import pytest

from constrained import cases, generate


@pytest.mark.timeout(300)
def test_every_finished_text_parses_and_validates(server):
    outcome = generate.run(server.port, cases.grammars(seed=1, count=150), generate.grammar)
    assert not outcome.wrong, outcome.wrong[:3]
    assert not outcome.refused, outcome.refused[:3]
    assert outcome.finished >= 120, outcome


@pytest.mark.timeout(300)
def test_required_calls_name_real_tools_with_valid_arguments(server):
    jobs = [cases.tools(seed, 1 + seed % 4) for seed in range(60)]
    outcome = generate.run(server.port, jobs, generate.tool_call)
    assert not outcome.wrong, outcome.wrong[:3]
    assert not outcome.refused, outcome.refused[:3]
    assert outcome.finished >= 40, outcome


@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", ["hermes", "mistral", "llama", "pythonic", "deepseek"])
def test_required_calls_in_each_models_own_form(start_server, template_of, form):
    server = start_server("--tokenizer-config-path", template_of(form))
    jobs = [cases.tools(seed, 1 + seed % 3) for seed in range(12)]
    outcome = generate.run(server.port, jobs, generate.tool_call)
    assert not outcome.wrong, outcome.wrong[:3]
    assert not outcome.refused, outcome.refused[:3]
    assert outcome.finished >= 6, outcome
