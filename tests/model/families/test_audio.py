"""Models that hear and speak: counts as transformers 5.23 builds their classes, frames and tokens of a recording."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.errors import ConfigError
from vrameter.memory.kv_cache import cache_shape
from vrameter.model.architecture import Architecture
from vrameter.model.audio_input import AudioInput
from vrameter.model.read import read_config

# Parameters of each class under the defaults of its configuration. [transformers 5.23.0 on the meta device]
DEFAULTS = [
    ("whisper", "WhisperForConditionalGeneration", 37_760_640),
    ("moonshine", "MoonshineForConditionalGeneration", 27_092_736),
    ("speech_to_text", "Speech2TextForConditionalGeneration", 29_536_256),
    ("wav2vec2", "Wav2Vec2ForCTC", 94_396_320),
    ("wav2vec2-bert", "Wav2Vec2BertModel", 580_493_120),
    ("wav2vec2-conformer", "Wav2Vec2ConformerModel", 179_730_304),
    ("hubert", "HubertForCTC", 94_396_320),
    ("wavlm", "WavLMForXVector", 100_493_132),
    ("unispeech-sat", "UniSpeechSatForCTC", 94_396_320),
    ("data2vec-audio", "Data2VecAudioForCTC", 93_188_896),
    ("sew", "SEWForCTC", 93_221_024),
    ("sew-d", "SEWDForCTC", 93_614_240),
    ("parakeet_ctc", "ParakeetForCTC", 608_799_745),
    ("parakeet_tdt", "ParakeetForTDT", 625_877_638),
    ("canary", "CanaryForConditionalGeneration", 962_155_520),
    ("seamless_m4t", "SeamlessM4TModel", 2_359_990_658),
    ("seamless_m4t_v2", "SeamlessM4Tv2Model", 2_309_249_669),
    ("speecht5", "SpeechT5ForTextToSpeech", 144_431_684),
    ("vits", "VitsModel", 36_284_592),
    ("bark", "BarkModel", 364_981_474),
    ("musicgen", "MusicgenForConditionalGeneration", 470_291_938),
    ("encodec", "EncodecModel", 14_851_810),
    ("dac", "DacModel", 76_620_777),
    ("mimi", "MimiModel", 79_308_609),
    ("xcodec", "XcodecModel", 160_698_625),
    ("xcodec2", "Xcodec2Model", 629_281_706),
    ("clap", "ClapModel", 153_492_890),
    ("audio-spectrogram-transformer", "ASTForAudioClassification", 86_190_338),
    ("voxtral", "VoxtralForConditionalGeneration", 4_676_271_104),
    ("qwen2_audio", "Qwen2AudioForConditionalGeneration", 12_692_062_208),
    ("qwen2_5_omni", "Qwen2_5OmniForConditionalGeneration", 18_386_365_824),
    ("granite_speech", "GraniteSpeechForConditionalGeneration", 6_990_441_514),
    ("dia", "DiaForConditionalGeneration", 1_611_160_576),
    ("csm", "CsmForConditionalGeneration", 1_632_100_161),
    ("kyutai_speech_to_text", "KyutaiSpeechToTextForConditionalGeneration", 2_696_431_425),
    ("fastspeech2_conformer", "FastSpeech2ConformerModel", 70_262_259),
]

# Frames and tokens of a recording. [convolution arithmetic of each class]
HEARD = [
    # type               seconds frames tokens
    ("whisper", 30.0, 1500, 1500),
    ("whisper", 2.0, 1500, 1500),  # padded to thirty seconds
    ("whisper", 31.0, 1500, 1500),  # and heard piece by piece
    ("wav2vec2", 1.0, 49, 49),
    ("wav2vec2", 10.0, 499, 499),
    ("sew", 10.0, 250, 250),
    ("moonshine", 1.0, 40, 40),
    ("parakeet_ctc", 10.0, 125, 125),
    ("wav2vec2-bert", 10.0, 500, 500),
    ("voxtral", 30.0, 1500, 375),
    ("voxtral", 31.0, 3000, 750),
    ("qwen2_audio", 30.0, 1500, 750),
    ("qwen3_asr", 10.0, 125, 125),
    ("granite_speech", 10.0, 500, 100),
    ("mimi", 1.0, 13, 13),
    ("encodec", 1.0, 75, 75),
    ("dac", 1.0, 31, 31),
    ("audio-spectrogram-transformer", 3.0, 1214, 1214),
]


def read(model_type: str, class_name: str, **values: Any) -> Architecture:
    """Return a class under its defaults, with some fields set."""
    return read_config({"model_type": model_type, "architectures": [class_name], **values})


def hearing(model_type: str) -> AudioInput:
    """Return what the first component that hears makes of a recording."""
    architecture = read_config({"model_type": model_type})
    return next(component.audio for component in architecture.components if component.audio is not None)


@pytest.mark.parametrize(("model_type", "class_name", "expected"), DEFAULTS)
def test_class_defaults(model_type: str, class_name: str, expected: int) -> None:
    assert read(model_type, class_name).num_params == expected


@pytest.mark.parametrize(("model_type", "seconds", "frames", "tokens"), HEARD)
def test_frames_and_tokens(model_type: str, seconds: float, frames: int, tokens: int) -> None:
    audio = hearing(model_type)
    assert (audio.frames(seconds), audio.tokens(seconds)) == (frames, tokens)


@given(
    st.sampled_from(sorted({row[0] for row in HEARD})),
    st.floats(0.5, 600.0, allow_nan=False),
    st.floats(0.5, 600.0, allow_nan=False),
)
def test_longer_recordings_never_take_less(model_type: str, first: float, second: float) -> None:
    audio = hearing(model_type)
    short, long = sorted((first, second))
    assert audio.frames(short) <= audio.frames(long)
    assert audio.tokens(long) <= audio.frames(long)


def test_a_listener_fixes_what_it_looks_at() -> None:
    """Whisper keeps 1500 encoder positions in every decoder layer, however short the recording."""
    architecture = read("whisper", "WhisperForConditionalGeneration")
    shape = cache_shape(architecture)
    assert shape.cross_bytes(0) == shape.cross_bytes(200) == 4 * 2 * 384 * 2 * 1500
    encoder = architecture.component("encoder")
    assert encoder is not None
    assert encoder.audio is not None
    assert encoder.audio.features == 80


def test_a_transducer_carries_a_small_state() -> None:
    architecture = read("parakeet_tdt", "ParakeetForTDT")
    assert architecture.decoder is None
    assert next(part.name for part in architecture.components if part.kind == "other") == "predictor"


def test_statistics_and_codebooks_are_no_parameters() -> None:
    """Mimi's 32 codebooks of 2048 entries, 256 wide, with their usage and a mark each."""
    assert read("mimi", "MimiModel").num_buffer_elements == 32 * (2048 * 256 + 2048 + 1)
    assert read("wav2vec2-conformer", "Wav2Vec2ConformerModel").num_buffer_elements == 12 * (2 * 768 + 1)


def test_only_the_thinker_writes_text() -> None:
    """What speaks in Qwen2.5-Omni stands beside the decoder, and is left out where the config turns sound off."""
    whole = read("qwen2_5_omni", "Qwen2_5OmniForConditionalGeneration")
    silent = read("qwen2_5_omni", "Qwen2_5OmniForConditionalGeneration", enable_audio_output=False)
    assert sum(part.kind == "decoder" for part in whole.components) == 1
    assert silent.num_params < whole.num_params
    assert cache_shape(silent).bytes_per_token == cache_shape(whole).bytes_per_token


def test_a_task_takes_only_what_it_needs() -> None:
    whole = read("seamless_m4t_v2", "SeamlessM4Tv2Model").num_params
    hears, reads = (
        read("seamless_m4t_v2", f"SeamlessM4Tv2For{task}").num_params for task in ("SpeechToText", "TextToText")
    )
    assert (hears, reads) == (1_501_842_240, 1_370_531_840)
    assert max(hears, reads) < whole


def test_lists_of_unequal_length_are_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.conv_kernel: has 7 entries for 2 layers"):
        read("wav2vec2", "Wav2Vec2Model", conv_dim=[512, 512])
