"""The demonstration: three clips learnt by heart come back from their text alone."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
import torch
from transformers import pipeline

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("demo", REPOSITORY / "examples" / "demo.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_real_clips_come_back(demo: ModuleType, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert demo.main(["--output", str(tmp_path)]) == 0

    report = capsys.readouterr()
    assert "real EnCodec codes and two recordings" in report.err
    hello = torch.load(data_dir / "encodec_codes" / "hello_world.qnt.pt", weights_only=True)[0, :4].T
    model = SmallEForSpeechGeneration.from_pretrained(tmp_path)
    processor = SmallEProcessor.from_pretrained(tmp_path)
    spoken = model.generate(**processor("Hello world"), do_sample=False)
    assert spoken.is_finished.all()
    assert demo.compare(hello, spoken.sequences[0]) >= 0.99
    for name in ("hello_world", "in_eighteen_thirteen", "in_being_comparatively_modern"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    audio, rate = soundfile.read(tmp_path / "hello_world.wav")
    assert rate == model.config.sampling_rate
    assert len(audio) == len(hello) * model.config.frame_length

    speech = pipeline("text-to-speech", model=str(tmp_path))("hello world", generate_kwargs={"do_sample": False})
    assert speech["sampling_rate"] == rate
    assert speech["audio"].shape == audio.shape


@pytest.mark.slow
@pytest.mark.parametrize("speaker", ["flite", "espeak-ng", None])
def test_without_the_test_material_it_makes_its_own_clips(
    demo: ModuleType,
    speaker: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if speaker and not shutil.which(speaker):
        pytest.skip(f"{speaker} is not installed")
    monkeypatch.setattr(demo, "SHARED", tmp_path / "absent")
    monkeypatch.setattr(demo.shutil, "which", lambda name: name if name == speaker else None)
    # A few steps show that the clips are made, named and learnt from; that they come back is shown above.
    assert demo.main(["--output", str(tmp_path / "demo"), "--max-steps", "5"]) == 1
    report = capsys.readouterr()
    assert (f"spoken by {speaker}" if speaker else "random codes") in report.err
    assert (tmp_path / "demo" / "hello_world.wav").is_file()
