import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import tiny_llm  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from offline_train import llm as llm_module  # noqa: E402
from offline_train import llm_attention  # noqa: E402
from offline_train.alignment_config import AlignmentConfig  # noqa: E402
from offline_train.alignment_samples import DrawConfig  # noqa: E402
from offline_train.embedding import PooledStore  # noqa: E402
from offline_train.full import load_reader  # noqa: E402
from offline_train.llm import LLM, LLMError, LoraSettings  # noqa: E402
from offline_train.prompts import LANGUAGES, prompt  # noqa: E402

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llm.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def llm(folder):
    return LLM.load(str(folder))


def test_z_is_the_state_before_the_first_response_token(llm):
    prompts, responses = [[1, 2, 3, 4], [9, 8]], [[5, 6], [7, 7, 7]]
    states, entropy = llm.read(prompts, responses)
    expected = 0.0
    for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        out = llm.model(input_ids=torch.tensor([p + r]), output_hidden_states=True)
        assert torch.allclose(states[i], out.hidden_states[-1][0, len(p) - 1], atol=1e-5)
        expected += float(F.cross_entropy(out.logits[0, len(p) - 1 : -1], torch.tensor(r), reduction="sum"))
    assert float(entropy) == pytest.approx(expected, rel=1e-5)


def test_what_the_response_says_does_not_change_z(llm):
    one, other = (llm.read([[1, 2, 3]], [response])[0] for response in ([4, 5], [200, 201, 202]))
    assert torch.allclose(one, other, atol=1e-6)


def test_padding_changes_no_pooled_vector(llm):
    rows = [[1, 2, 3, 4, 5, 6], [7], [8, 9]]
    together = llm.pooled(rows)
    for row, vector in zip(rows, together, strict=True):
        assert torch.allclose(llm.pooled([row])[0], vector, atol=1e-5)
        assert torch.allclose(llm.states([row])[0].mean(0), vector, atol=1e-5)


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_read_after_the_opening_which_counts_for_nothing_itself(folder, llm, language):
    words = LANGUAGES[language].text
    opened, before = LLM.load(str(folder), opening=words), llm.literal(words)
    rows = [[1, 2, 3, 4], [7]]
    for row, vector in zip(rows, opened.pooled(rows), strict=True):
        assert torch.allclose(llm.states([before + row])[0, len(before) :].mean(0), vector, atol=1e-5)
    assert opened.fingerprint() != llm.fingerprint()  # so that no kept vector is taken for one read otherwise


@pytest.mark.parametrize("language", LANGUAGES)
def test_stage_1_reads_texts_after_the_words_of_its_language(folder, tmp_path, llm, language):
    reader = load_reader(str(folder), tmp_path, AlignmentConfig(draw=DrawConfig(language=language)))
    assert reader.opening == llm.literal(LANGUAGES[language].text)
    assert reader.opening


def test_only_lora_trains_and_it_starts_as_no_change(llm):
    before = llm.pooled([[1, 2, 3]]).detach()
    assert not llm.lora()
    llm.add_lora(LoraSettings())
    llm.eval()
    assert torch.allclose(llm.pooled([[1, 2, 3]]), before, atol=1e-6)
    names = list(llm.lora())
    assert names
    assert all("lora_" in name for name in names)
    for layer in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert any(layer in name for name in names)
    states, entropy = llm.read([[1, 2]], [[3]])
    (states.sum() + entropy).backward()
    assert all(p.grad is None for p in llm.parameters() if not p.requires_grad)


def test_merged_weights_give_the_same_vectors(llm):
    llm.add_lora(LoraSettings())
    with torch.no_grad():
        for value in llm.lora().values():
            value.normal_(std=0.05)
    llm.eval()
    before, fingerprint = llm.pooled([[1, 2, 3]]).detach(), llm.fingerprint()
    llm.merge()
    assert torch.allclose(llm.pooled([[1, 2, 3]]), before, atol=1e-4)
    assert llm.fingerprint() != fingerprint


@pytest.mark.skipif(not llm_module.can_compile(), reason="no C++ compiler, which nothing else here needs")
def test_compiled_layers_say_the_same_in_the_same_gradients_and_under_another_name(folder, tmp_path):
    said, counters = {}, torch._dynamo.utils.counters["stats"]
    counters.clear()
    for compiled in (False, True):
        llm = load_reader(str(folder), tmp_path, AlignmentConfig(compile=compiled))
        llm._bf16 = False  # in which last digits are the third
        before = llm.pooled([[1, 2, 3, 4, 5, 6], [7], [8, 9]])
        torch.manual_seed(0)
        llm.add_lora(LoraSettings(dropout=0.0))
        for value in llm.lora().values():
            torch.nn.init.normal_(value, std=0.1)
        llm.train()
        state, entropy = llm.read([[1, 2, 3], [4]], [[5, 6], [7]])
        (state.sum() + entropy).backward()
        assert all(value.grad.abs().max() > 0 for value in llm.lora().values())
        llm.merge()
        after = llm.pooled([[3, 4], [5, 6, 7]])
        parts = [before, state, entropy, *(value.grad for value in llm.lora().values()), after]
        said[compiled] = parts, PooledStore(llm, tmp_path, 16).fingerprint
        assert (counters["unique_graphs"] > 0) == compiled
    (plain, name), (fused, other) = said[False], said[True]
    for one, another in zip(plain, fused, strict=True):
        assert torch.allclose(one, another, atol=1e-4, rtol=1e-4)
    assert other != name


def test_without_a_compiler_compiling_fails_with_a_reason(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    assert not llm_module.can_compile()
    with pytest.raises(LLMError, match=r"align\.compile needs a C\+\+ compiler"):
        load_reader(str(folder), tmp_path, AlignmentConfig(compile=True))


def test_embedding_computes_only_what_is_new(llm, tmp_path):
    seen = []

    def report(done, total, rate):
        seen.append(total)

    texts = ["a film", "a longer comment on a film", "x"]
    first = PooledStore(llm, tmp_path, 8).vectors(texts, report)
    assert seen[-1] == 3
    again = PooledStore(llm, tmp_path, 8).vectors([*texts, "new", "x"], report)
    assert seen[-1] == 1
    assert (again[:3] == first).all()
    assert (again[4] == first[2]).all()
    expected = llm.pooled(llm.tokens(["a longer comment on a film"], 8)).detach().numpy()
    assert again[1] == pytest.approx(expected[0], abs=1e-5)
    with torch.no_grad():
        next(llm.parameters()).add_(0.1)
    PooledStore(llm, tmp_path, 8).vectors(texts, report)
    assert seen[-1] == 3  # another LLM


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates_differ_in_which_history_comes_first(language):
    first, second = (prompt([(1, 2)], [(3, [4, 5])], 6, template=t, language=language) for t in (0, 1))
    assert [p for p in first if isinstance(p, int)] == [1, 2, 3, 4, 5, 6]
    assert [p for p in second if isinstance(p, int)] == [3, 4, 5, 1, 2, 6]
    assert LANGUAGES[language].nothing in prompt([], [], None, language=language)


def test_with_a_language_model_the_process_keeps_what_it_freed(folder, monkeypatch):
    kept = []
    monkeypatch.setattr(llm_module, "keep_freed_memory", lambda: kept.append(True))
    LLM.load(str(folder))
    assert kept


def test_what_can_not_be_loaded_fails_with_a_reason(tmp_path):
    with pytest.raises(LLMError, match="can't load"):
        LLM.load(str(tmp_path))
    with pytest.raises(LLMError, match="no file"):
        LLM.load(str(tmp_path / "missing.gguf"))


@pytest.mark.parametrize("lengths", [(7,), (5, 2, 1), (16,) * 9])
def test_attention_over_short_sequences_is_attention(folder, llm, lengths):
    """States and gradients are those of `transformers`' own attention, spelled out in fp32."""
    from transformers import AutoModelForCausalLM

    plain = LLM(AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="eager"), llm.tokenizer).eval()
    rows = [[(11 * i + 3 * j) % 97 + 1 for j in range(length)] for i, length in enumerate(lengths)]
    weights = torch.randn(len(rows), llm.dim, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (llm, plain):
        model.add_lora(LoraSettings(dropout=0.0))
        torch.manual_seed(1)
        with torch.no_grad():
            for _, weight in sorted(model.lora().items()):
                weight.normal_(std=0.1)
        (model.pooled(rows) * weights).sum().backward()
        gradients.append([value.grad for _, value in sorted(model.lora().items())])
    assert llm.model.config._attn_implementation == llm_attention.NAME
    assert torch.allclose(llm.pooled(rows), plain.pooled(rows), atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(*gradients, strict=True))
    assert any(float(value.abs().max()) > 1e-3 for value in gradients[0])


def test_attention_leaves_masks_and_long_sequences_to_the_fused_one(llm, monkeypatch):
    """A mask that hides the first token of a row is heard, and so is a window longer than the short form takes."""
    ids = torch.tensor([[5, 6, 7, 8]])
    shown = llm.model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1, 1]])).logits[0, 1:]
    without = llm.model(input_ids=ids[:, 1:]).logits[0]
    assert torch.allclose(shown, without, atol=1e-4)
    short = llm.states([[1, 2, 3, 4, 5]])
    monkeypatch.setattr(llm_attention, "LONGEST", 3)
    assert torch.allclose(llm.states([[1, 2, 3, 4, 5]]), short, atol=1e-5)


@pytest.mark.parametrize("kind", ["GPT2", "Mistral", "GptOss", "Bloom"])
def test_models_of_other_kinds_say_what_they_say_without_us(folder, tmp_path, kind):
    """Windows that slide are kept; attention with sinks or ALiBi is left to the model."""
    import transformers

    made = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
        "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
        "Mistral": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 4},
        "GptOss": {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
        },
    }[kind]
    if kind in ("Mistral", "GptOss"):
        made |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(**made, vocab_size=128)
    torch.manual_seed(0)
    plain = transformers.AutoModelForCausalLM.from_config(config).eval()
    plain.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(str(folder)).save_pretrained(tmp_path)
    rows = [[(7 * i + 3 * j) % 97 + 1 for j in range(12)] for i in range(3)]
    states = plain.base_model(input_ids=torch.tensor(rows), use_cache=False).last_hidden_state
    assert torch.allclose(LLM.load(str(tmp_path)).states(rows), states, atol=1e-5)
