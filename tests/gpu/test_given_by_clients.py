"""What clients bring along, on a GPU with graphs and overlap: logit processors and embeddings."""

from __future__ import annotations

import pytest
import torch

from radixfleet import CustomLogitProcessor, Engine

from ..worker.checkpoints import VOCAB_SIZE, hf_reference, make_checkpoint
from .agreement import NEAR_TIE_BFLOAT16, NEAR_TIE_FLOAT32, check_greedy
from .smollm2 import GREEDY, engine

TINY = {"device": "cuda", "skip_tokenizer_init": True, "max_total_tokens": 2048}
TINY |= {"chunked_prefill_size": 64, "cuda_graph_max_bs": 8}
FREE = {"temperature": 0.0, "max_new_tokens": 24, "ignore_eos": True}
SAMPLINGS = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 1e-3, "top_p": 0.5, "seed": 3},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 3},
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("llama3"), "llama3")


@pytest.fixture(scope="module")
def tiny_prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = (1, 7, 33, 100)
    return [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in lengths]


class Countdown(CustomLogitProcessor):
    """Leaves one token, the request's next, or what its `then` says from the place `at` on."""

    def __call__(self, logits, custom_param_list):
        for row, params in zip(logits, custom_param_list, strict=True):
            params["next"] -= 1
            row.fill_(-torch.inf)
            if params["next"] > params["at"]:
                row[params["next"]] = 0.0
            elif params["then"] == "inf":
                row[params["at"]] = torch.inf
            elif params["then"] == "nan":
                row.fill_(torch.nan)
            elif params["then"] == "lowest":
                row.fill_(torch.finfo(row.dtype).min)
        return logits


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_processors_choose_beside_free_requests(tiny, tiny_prompts, dtype, sampling):
    text = Countdown.to_str()
    with Engine(
        model_path=str(tiny), dtype=dtype, enable_custom_logit_processor=True, **TINY
    ) as made:
        free = made.generate(input_ids=tiny_prompts[:2], sampling_params=FREE)
        chosen = FREE | sampling | {"custom_params": {"next": 99, "at": 84, "then": "inf"}}
        found = made.generate(
            input_ids=tiny_prompts,
            sampling_params=[FREE, FREE, chosen, chosen],
            custom_logit_processor=[None, None, text, text],
        )
        tokens = [answer["output_ids"] for answer in found]
        assert tokens[:2] == [answer["output_ids"] for answer in free]
        assert tokens[2:] == [[*range(98, 84, -1), *[84] * 10]] * 2


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("then", ["nothing", "nan", "lowest"])
def test_a_processor_that_leaves_no_token_hangs_no_kernel(tiny, tiny_prompts, sampling, then):
    with Engine(model_path=str(tiny), enable_custom_logit_processor=True, **TINY) as made:
        bad = FREE | sampling | {"custom_params": {"next": 99, "at": 90, "then": then}}
        with pytest.raises(ValueError, match="left no token to choose"):
            made.generate(
                input_ids=tiny_prompts[2],
                sampling_params=bad,
                custom_logit_processor=Countdown.to_str(),
            )
        assert made.flush_cache()
        free = made.generate(input_ids=tiny_prompts, sampling_params=FREE)
        assert [len(answer["output_ids"]) for answer in free] == [24] * 4


def test_embeddings_are_answered_as_hugging_face_answers(tiny, tiny_prompts):
    reference = hf_reference(tiny)
    rows = [reference.get_input_embeddings().weight[prompt] for prompt in tiny_prompts]
    with Engine(model_path=str(tiny), dtype="float32", **TINY) as made:
        for _ in range(2):  # the second time from the cache
            found = made.generate(input_embeds=rows, sampling_params=FREE)
            tokens = [answer["output_ids"] for answer in found]
            check_greedy(reference, tiny_prompts, tokens, NEAR_TIE_FLOAT32)


def test_embeddings_take_the_kernels_of_few_tokens_too(smollm2, prompts, reference):
    few = [prompt[:n] for prompt, n in zip(prompts, (1, 2, 3, 4), strict=False)]
    table = reference.get_input_embeddings().weight
    with engine(smollm2) as made:
        rows = [table[torch.tensor(prompt, device="cuda")] for prompt in few]
        found = [made.generate(input_embeds=each, sampling_params=GREEDY) for each in rows]
    check_greedy(reference, few, [each["output_ids"] for each in found], NEAR_TIE_BFLOAT16)
