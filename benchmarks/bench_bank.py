"""Fine-tuning LoRAs: one AdapterBank of 16 people against a PEFT adapter each, same base, updates and photos."""

import torch
from _harness import compare
from peft import LoraConfig, inject_adapter_in_model

from lorasynth.lora.bank import AdapterBank
from lorasynth.lora.layout import Layout
from lorasynth.worlds.base import BaseConfig, build_scheduler, build_unet, v_loss
from lorasynth.worlds.world import TARGET_MODULES
from lorasynth.zoo.build import random_init


def main() -> None:
    scheduler = build_scheduler()
    for b in (1, 4, 8):
        n = 64 // b
        sides = []
        for kind in ("bank", "peft"):
            unet = build_unet(BaseConfig(), 16).requires_grad_(False).eval()
            count = n if kind == "bank" else 1
            x, text = torch.randn(count * b, 16, 8, 8), torch.randn(count * b, 40, 96)
            noise, t = torch.randn_like(x), torch.randint(0, 1000, (count * b,))
            if kind == "bank":
                layout = Layout.from_model(unet, TARGET_MODULES, 4)
                bank = AdapterBank(unet, layout, n, random_init(layout, 0))
                parameters = list(bank.parameters())
            else:
                inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=list(TARGET_MODULES)), unet)
                parameters = [p for p in unet.parameters() if p.requires_grad]
                bank = None
            optimizer = torch.optim.Adam(parameters, lr=1e-4)

            def step(unet=unet, bank=bank, optimizer=optimizer, x=x, text=text, noise=noise, t=t) -> None:
                if bank is None:
                    loss = v_loss(unet, scheduler, x, text, noise, t).mean()
                else:
                    with bank.attached():
                        loss = v_loss(unet, scheduler, x, text, noise, t).view(bank.num_adapters, -1).mean(1).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            sides.append(step)
        compare(f"zoo_training_b{b}_n{n}", *sides, per_ours=n)


if __name__ == "__main__":
    main()
