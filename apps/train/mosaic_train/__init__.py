"""The training app: joins configuration, data and TorchTitan's Trainer; holds no training logic.

Modules import torchtitan, transformers and streaming only inside functions: a mistake in the TOML
file should not wait for them.
"""
