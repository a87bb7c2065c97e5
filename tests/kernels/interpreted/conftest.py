"""All tests here run kernels in the mended interpreter."""

from tests.kernels import interpreter

interpreter.install()
