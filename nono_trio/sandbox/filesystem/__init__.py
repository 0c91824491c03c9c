"""The file plan of a cage: grants, protected paths and the plan made from them."""
