"""How fast the study is, beside the procedure of the released code and the floor of the machine."""
