"""What cannot take an adapter is said in one sentence before anything is attached."""

import pytest
import torch

from lorasynth.errors import LayoutError, UsageError
from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch.compile imports what warns so
@pytest.mark.slow
def test_compiled_model_is_named_with_what_to_do(unet):
    layout = Layout.from_model(unet, ["to_q"], 2)
    compiled = torch.compile(unet)
    for use in (
        lambda: LoRA.random(layout).attach(compiled),
        lambda: AdapterBank(compiled, layout, 2, torch.zeros(layout.num_parameters)),
        lambda: Layout.from_model(compiled, ["to_q"], 2),
    ):
        with pytest.raises(LayoutError, match=r"got one wrapped by torch\.compile; give model\._orig_mod"):
            use()
    LoRA.random(layout).attach(compiled._orig_mod)  # the advice is true


@pytest.mark.parametrize("name", ["v1.5", "", "a b", "a/b", "ü"])
def test_adapters_name_is_one_that_modules_can_have(unet, name):
    layout = Layout.from_model(unet, ["to_q"], 2)
    with pytest.raises(UsageError, match="expected an adapter's name of letters, digits, '_' and '-', got"):
        LoRA.random(layout).attach(unet, adapter_name=name)
    assert not hasattr(unet, "peft_config")
