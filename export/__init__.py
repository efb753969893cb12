"""From a Checkpoint to an ExportedModel, through the parity gate.

Other rooms use `kdx.export.exported.export_checkpoint` and `kdx.export.samples.ParitySamples`. Nothing is
imported here: the gate's child process passes through this file and shall not load torch.
"""
