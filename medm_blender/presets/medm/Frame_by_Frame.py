"""Without consistency, for comparison: it flickers."""

import bpy

medm = bpy.context.scene.medm

medm.prompt = "a terracotta sculpture"
medm.negative_prompt = ""
medm.mode = "FULL"
medm.strength = 0.5
medm.consistency = 0.0
medm.model = "bundled"
medm.control = ""
medm.reference_scale = 0.6
medm.steps = 0
medm.guidance_scale = 0.0
medm.sampler = "MODEL"
medm.guess = False
medm.lora = ""
medm.embeddings = ""
medm.harmonisation = "KEY"
medm.w_steps = 3
medm.w_start = 0.25
medm.w_end = 0.85
medm.window = 0
medm.extra.clear()
