"""AICL in PyTorch: losses, data, trainer.

``aicl_fast.train.losses`` has the losses, ``aicl_fast.train.trainer`` the loop, ``aicl_fast.train.watch`` the
demo's data. Nothing is imported here, since an application that only localises must not pay for torch.
"""
