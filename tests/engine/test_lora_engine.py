"""LoRAs in the engine: what is refused, what is let go, what stays bit for bit."""

import json
import os
import signal
from contextlib import aclosing

import pytest
import torch
from diffusers import StableDiffusionPipeline
from engine_helpers import alone, drive, finish
from flow_helpers import final_latent
from lora_helpers import job, lora, shelf, write_lora
from safetensors.torch import load_file, save_file

from service.engine.base import JobFailed, JobResult, Lora
from service.engine.config import EngineConfig
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from service.engine.lora import LoraError
from service.engine.process import ProcessEngine

PARTS = {"unet": 4, "text_encoder": 2}


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate("abcde"):
        write_lora(StableDiffusionPipeline, tiny_model, folder / f"{name}.safetensors", seed=seed, **PARTS)
    return folder


@pytest.fixture(scope="module")
def dressed(tiny_model, folder):
    return load_pipeline(str(tiny_model), "cpu", "float32", shelf(folder, limit=4))


def named(folder, name, scale=1.0):
    return lora(folder / f"{name}.safetensors", scale)


def refusal(pipeline, *loras):
    """The end of a job with these, after which one without must be what it always was."""
    before = final_latent(pipeline, job())
    failed = drive(StepLoop(pipeline), job(*loras))["a"]
    assert isinstance(failed, JobFailed)
    assert torch.equal(final_latent(pipeline, job()), before)
    return failed.code, failed.message


def test_without_loras_nothing_ever_changes(pipeline, dressed, folder):
    never_loaded = final_latent(pipeline, job())
    assert torch.equal(final_latent(dressed, job()), never_loaded)
    for names in ("a", "ab", "cde", "e"):
        final_latent(dressed, job(*(named(folder, name) for name in names)))
        assert torch.equal(final_latent(dressed, job()), never_loaded)


def test_only_so_many_stay_loaded_and_a_reloaded_one_draws_the_same(tiny_model, folder):
    pipeline = load_pipeline(str(tiny_model), "cpu", "float32", shelf(folder, limit=2))
    first = final_latent(pipeline, job(named(folder, "a")))
    drawn = {name: final_latent(pipeline, job(named(folder, name))) for name in "bac"}
    assert pipeline._adapters.loaded == ["a", "c"]
    held = {name for name, _ in pipeline._denoiser.named_parameters() if "lora_A" in name}
    assert {name.split(".")[-2] for name in held} == set(pipeline._adapters._loaded.values())
    assert torch.equal(drawn["a"], first)
    assert not torch.equal(drawn["b"], drawn["c"])
    assert torch.equal(final_latent(pipeline, job(named(folder, "b"))), drawn["b"])
    # A set is never split for want of room.
    final_latent(pipeline, job(*(named(folder, name) for name in "abc")))
    assert pipeline._adapters.loaded == ["a", "b", "c"]


def test_jobs_with_more_loras_than_fit_run_together(tiny_model, folder):
    pipeline = load_pipeline(str(tiny_model), "cpu", "float32", shelf(folder, limit=1))
    specs = [job(named(folder, name), name=name) for name in "abc"]
    ends = drive(StepLoop(pipeline), *specs)
    for item in specs:
        assert (ends[item.job_id].image == alone(pipeline, item).image).all()


def test_rows_of_other_sets_never_share_a_forward(dressed, folder):
    seen, predict = [], dressed.predict
    loop = StepLoop(dressed)
    for item in (
        job(name="1"),
        job(named(folder, "a"), name="2"),
        job(named(folder, "a"), name="3", seed=9),
        job(named(folder, "a", 0.5), name="4"),
        job(name="5", width=64),
    ):
        loop.submit(item, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dressed, "predict", lambda rows: seen.append((len(rows.latents), rows.loras)) or predict(rows))
        for _ in range(4):
            loop.tick()
    one, half = (named(folder, "a"),), (named(folder, "a", 0.5),)
    assert seen == [(1, ()), (2, one), (1, half), (1, ())]
    assert all(isinstance(end, JobResult) for end in finish(loop).values())


def test_the_encoded_prompts_of_sets_are_kept_apart(dressed, folder):
    sets = [(), (named(folder, "a"),), (named(folder, "a", 0.5),), (named(folder, "b"),)]
    states = [dressed.encode("kept apart", 32, 32, loras=loras)["states"] for loras in sets]
    for index, one in enumerate(states):
        assert not any(torch.equal(one, other) for other in states[:index])
        assert dressed.encode("kept apart", 32, 32, loras=sets[index])["states"] is one


def test_a_file_put_there_later_is_found_and_a_replaced_one_is_another(dressed, folder, tiny_model, tmp_path):
    path = folder / "later.safetensors"
    path.write_bytes((folder / "a.safetensors").read_bytes())
    old = lora(path)
    latent = final_latent(dressed, job(old))
    assert torch.equal(latent, final_latent(dressed, job(named(folder, "a"))))
    path.write_bytes((folder / "b.safetensors").read_bytes())
    assert torch.equal(final_latent(dressed, job(lora(path))), final_latent(dressed, job(named(folder, "b"))))
    # Loaded before it was replaced, it is still what its digest says.
    assert torch.equal(final_latent(dressed, job(old)), latent)
    path.unlink()


def test_a_file_that_is_not_the_promised_one(dressed, folder):
    for wrong in (
        Lora("a", "0" * 64, 1.0),
        Lora("missing", "0" * 64, 1.0),
        Lora("../a", named(folder, "a").digest, 1.0),
    ):
        code, message = refusal(dressed, wrong)
        assert code == "lora-changed"
        assert wrong.name in message
        assert str(folder) not in message


def changed(folder, name, change, metadata=None):
    """Write a LoRA whose weights were changed, and return it."""
    weights = change(load_file(folder / "a.safetensors"))
    save_file(weights, folder / f"{name}.safetensors", metadata)
    return named(folder, name)


def described(**settings):
    return {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in settings.items()})}


REFUSED = {
    "unknown-part": lambda w: {**w, "text_encoder_3.q.lora_A.weight": torch.ones(1)},
    "unknown-layer": lambda w: {key.replace("mid_block", "no_block"): tensor for key, tensor in w.items()},
    "narrow": lambda w: {key: tensor[:, :2].contiguous() for key, tensor in w.items()},
    "half": lambda w: {key: tensor for key, tensor in w.items() if not key.endswith("lora_B.weight")},
    "wrapped": lambda w: {key.replace("to_q.", "to_q.base_layer."): tensor for key, tensor in w.items()},
    "dora": lambda w: {**w, "unet.mid_block.dora_scale": torch.ones(1)},
    "norm": lambda w: {**w, "unet.conv_norm_out.weight": torch.ones(16)},
    "base": lambda w: {"unet.conv_in.weight": torch.ones(16, 4, 3, 3)},
    "empty": lambda w: {},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit(dressed, folder, name):
    code, message = refusal(dressed, changed(folder, name, REFUSED[name]))
    assert code == "lora-unfit"
    assert message.startswith(f"LoRA {name} does not fit this model: ")


def test_a_file_that_lies_about_its_rank(dressed, folder):
    lie = changed(folder, "lie", lambda w: w, described(r=3, lora_alpha=6))
    assert refusal(dressed, lie) == ("lora-unfit", "LoRA lie does not fit this model: it cannot be loaded")


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x02\0\0\0\0\0\0\0[]"])
def test_a_file_that_is_no_safetensors_file(dressed, folder, content):
    (folder / "broken.safetensors").write_bytes(content)
    code, message = refusal(dressed, named(folder, "broken"))
    assert (code, message) == (
        "lora-unfit",
        "LoRA broken does not fit this model: it is not a safetensors file",
    )


def test_one_bad_lora_of_a_set_leaves_none_active(dressed, folder):
    bad = changed(folder, "bad", REFUSED["narrow"])
    with pytest.raises(LoraError, match="LoRA bad does not fit"):
        dressed.encode("a pair", 32, 32, loras=(named(folder, "a"), bad))
    alone_now = final_latent(dressed, job(named(folder, "a")))
    assert torch.equal(alone_now, final_latent(dressed, job(named(folder, "a"))))
    assert "bad" not in dressed._adapters.loaded


def test_another_trainers_names_and_strength(dressed, folder):
    """Kohya's script: other names, alpha beside the matrices."""
    path, rank = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 2
    down, up = torch.randn(rank, 16), torch.randn(16, rank)
    weights = {f"lora_unet_{path}.lora_down.weight": down, f"lora_unet_{path}.lora_up.weight": up}
    save_file({**weights, f"lora_unet_{path}.alpha": torch.tensor(1.0)}, folder / "kohya.safetensors")
    save_file(
        {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": down,
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": up,
        },
        folder / "plain.safetensors",
    )
    latent = final_latent(dressed, job(named(folder, "kohya", 2.0)))
    assert not torch.equal(latent, final_latent(dressed, job()))
    torch.testing.assert_close(latent, final_latent(dressed, job(named(folder, "plain"))))


async def test_a_job_is_run_again_with_its_loras_when_the_engine_dies(tiny_model, folder, dressed):

    settings = {"device": "cpu", "dtype": "float32", "threads": 1, "loras": shelf(folder)}
    engine = ProcessEngine(EngineConfig(str(tiny_model), **settings))
    await engine.start()
    item = job(named(folder, "a"), named(folder, "b", 0.5), steps=60)
    try:
        async with aclosing(engine.run(item)) as events:
            await anext(events)
            os.kill(engine.pid, signal.SIGKILL)
            result = [event async for event in events][-1]
    finally:
        await engine.close()
    assert isinstance(result, JobResult)
    assert result.restarts == 1
    assert (result.image == alone(dressed, item).image).all()
