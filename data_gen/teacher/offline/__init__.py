"""The composing teacher: a program that writes dialogues from banks of phrases. It is no language model."""
