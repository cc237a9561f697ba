"""An inpainter that fails, for tests of what becomes of the images."""

from lightning_memaudit.recovery.methods.biharmonic import BiharmonicInpainting


class FailsAtFirst(BiharmonicInpainting):
    """Crashes on the first block that it is given, together with others and then alone."""

    def __init__(self):
        self.calls = 0

    def __call__(self, autoencoder, observed, mask):
        self.calls += 1
        if self.calls <= 2:
            raise RuntimeError("no")
        return super().__call__(autoencoder, observed, mask)
